package receiver

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"

	"imagetasks/pkg/alert"
	"imagetasks/pkg/lang"
)

// document is a message as other receivers get it. docs/alerts.md describes it.
type document struct {
	Type         string  `json:"type"` // alert or test
	Installation string  `json:"installation"`
	Host         string  `json:"host"` // that sends it
	At           string  `json:"at"`
	Title        string  `json:"title"`
	Alerts       []entry `json:"alerts"`
}

// entry is one alert.
type entry struct {
	State    alert.State     `json:"state"` // new, open, more, resolved or happened
	Severity string          `json:"severity"`
	Code     string          `json:"code"`
	Host     string          `json:"host"` // that saw it
	Since    string          `json:"since"`
	Until    string          `json:"until"` // it was seen last, or it was found to be over
	What     bilingual       `json:"what"`
	Hint     *bilingual      `json:"hint"` // null: there is none
	Do       string          `json:"do"`   // the command to run next; empty: there is none
	Finding  json.RawMessage `json:"finding"`
}

type bilingual struct {
	EN string `json:"en"`
	ZH string `json:"zh"`
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (s *Sender) json(r request, m alert.Message, now time.Time) (request, error) {
	d := document{Type: "alert", Installation: m.Name, Host: m.Host, At: stamp(m.At), Title: m.Title(s.Lang), Alerts: []entry{}}
	if len(m.Items) == 0 {
		d.Type = "test"
	}
	for _, i := range m.Items {
		raw, err := json.Marshal(i.Finding)
		if err != nil {
			return r, fmt.Errorf("write the message: %w", err)
		}
		e := entry{State: i.State, Severity: string(i.Severity), Code: string(i.Finding.Code), Host: i.Host, Since: stamp(i.Began), Until: stamp(i.Until),
			What: bilingual{i.Finding.Text(lang.EN), i.Finding.Text(lang.ZH)}, Finding: raw}
		if hint := i.Hint(lang.EN); hint != "" {
			e.Hint = &bilingual{hint, i.Hint(lang.ZH)}
		}
		if next := i.Finding.Next(); !next.IsZero() && m.Command != nil {
			e.Do = m.Command(next)
		}
		d.Alerts = append(d.Alerts, e)
	}
	body, err := json.Marshal(d)
	if err != nil {
		return r, fmt.Errorf("write the message: %w", err)
	}
	r.body = json.RawMessage(body)
	if s.Secret == "" {
		return r, nil
	}
	secret, err := key(s.Secret)
	if err != nil {
		return r, err
	}
	// As the Standard Webhooks specification says.
	id, at := "alert_"+uuid.NewString(), strconv.FormatInt(now.Unix(), 10)
	r.header["webhook-id"], r.header["webhook-timestamp"] = id, at
	r.header["webhook-signature"] = "v1," + sign(secret, id+"."+at+"."+string(body))
	return r, nil
}
