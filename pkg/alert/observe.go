// Package alert tells people about problems: it records which findings are open, for all processes of an installation, and sends what each receiver
// was not told yet. Package receiver has the formats of the services. This package uses no HTTP.
package alert

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"imagetasks/pkg/finding"
	"imagetasks/pkg/store"
)

// Observer is what findings are recorded in.
type Observer interface {
	ObserveAlerts(ctx context.Context, v store.AlertView) error
}

// details is what the database keeps about a finding.
type details struct {
	Finding finding.Finding `json:"finding"`
	Host    string          `json:"host"`            // that saw it last
	Grows   bool            `json:"grows,omitempty"` // it is told again if its count has grown
}

// Scope is who can see whether a problem is over.
type Scope int

// The scopes.
const (
	Installation Scope = iota // the programs of every host
	Host                      // those of one host
)

// scopeOf returns the scope of a finding. That the API is unreachable is known to the processors; where it has no subject, the monitor of one
// host has checked it.
func scopeOf(f finding.Finding) Scope {
	if slices.Contains(HostCodes(), f.Code) || f.Code == finding.APIUnreachable && f.Subject == "" || f.Code.IsEvent() {
		return Host
	}
	return Installation
}

// HostCodes returns the codes that the monitor of a host finds about that host.
func HostCodes() []finding.Code {
	return []finding.Code{finding.EndpointsInvalid, finding.ProcessorNotRunning, finding.ProcessorHung, finding.ForegroundHung, finding.RestartFailed,
		finding.RestartLimit, finding.StoppedWithDueTasks, finding.PictureCleaningFailed, finding.NotSupervised, finding.MonitorOverdue,
		finding.MonitorPassIncomplete, finding.LogDirUnwritable, finding.DiskNearlyFull}
}

// InstallationCodes returns the codes that hold for the whole installation.
func InstallationCodes() []finding.Code {
	return []finding.Code{finding.APIUnreachable, finding.PicturesUnstorable, finding.ModelsRefused, finding.PicturesNotFetched, finding.EndpointFailing,
		finding.EndpointRefusesModels, finding.EndpointsDiffer, finding.ProxyEjected, finding.NoProcessor, finding.TasksStuck, finding.MissingCharge,
		finding.RefundOwed, finding.TasksSetAside, finding.LeasesFailing, finding.DatabaseCopied, finding.ClaimingPaused, finding.TasksFailing,
		finding.PictureStoresDiffer, finding.BridgeFailing, finding.BridgeBehind, finding.LostUpdates, finding.WebhooksUndelivered,
		finding.WebhookFailing, finding.BacklogOld}
}

// EventCodes returns the codes of events.
func EventCodes() []finding.Code {
	return []finding.Code{finding.TasksRepaired, finding.ProcessorRestarted, finding.AuditFault}
}

// fingerprint returns what identifies a problem. The subject of most codes is a list that may change while it is the same problem.
func fingerprint(f finding.Finding, host string) string {
	id := string(f.Code)
	switch f.Code {
	case finding.PicturesUnstorable, finding.EndpointFailing, finding.ProxyEjected, finding.LeasesFailing, finding.WebhookFailing, finding.DiskNearlyFull:
		id += " " + f.Subject
	}
	if scopeOf(f) == Host {
		id += " on " + host
	}
	if utf8.RuneCountInString(id) > maxFingerprint || !utf8.ValidString(id) {
		sum := sha256.Sum256([]byte(id))
		id = string(f.Code) + " " + hex.EncodeToString(sum[:])
	}
	return id
}

// maxFingerprint bounds a fingerprint, in characters.
const maxFingerprint = 400

// grows reports whether more of the same is news.
func grows(c finding.Code) bool {
	switch c {
	case finding.MissingCharge, finding.RefundOwed, finding.ModelsRefused, finding.RestartLimit:
		return true
	}
	return false
}

// View is what a program on a host has seen.
type View struct {
	Host     string
	Findings []finding.Finding
	// Looked are the codes that it has looked for, of each scope: an open problem with such a code that is not in Findings may be over.
	Looked map[Scope][]finding.Code
	Quiet  time.Duration // for how long nobody must see a problem before it is over
}

// Observe records what a program has seen.
func Observe(ctx context.Context, to Observer, v View) error {
	for _, scope := range []Scope{Installation, Host} {
		source := ""
		if scope == Host {
			source = v.Host
		}
		view := store.AlertView{CallID: uuid.New(), Quiet: v.Quiet, Sources: []string{source}, Codes: []string{}}
		for _, code := range v.Looked[scope] {
			view.Codes = append(view.Codes, string(code))
		}
		known := map[string]bool{}
		for _, f := range v.Findings {
			if scopeOf(f) != scope || known[fingerprint(f, v.Host)] || f.Code == finding.DatabaseUnavailable {
				continue
			}
			seen, err := seenAlert(f, v.Host, source)
			if err != nil {
				return err
			}
			known[seen.Fingerprint] = true
			view.Seen = append(view.Seen, seen)
		}
		if len(view.Seen) == 0 && len(view.Codes) == 0 {
			continue
		}
		if err := to.ObserveAlerts(ctx, view); err != nil {
			return err
		}
	}
	return nil
}

func seenAlert(f finding.Finding, host, source string) (store.SeenAlert, error) {
	f.Reason, f.Subject = clean(f.Reason, maxReason), clean(f.Subject, maxSubject)
	content, err := json.Marshal(details{f, host, grows(f.Code)})
	return store.SeenAlert{Fingerprint: clean(fingerprint(f, host), maxFingerprint), Code: string(f.Code), Severity: store.AlertSeverity(f.Code.Severity()), Source: source,
		Event: f.Code.IsEvent(), Details: content, Count: int64(max(f.Count, 1))}, err
}
