package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
)

// The bounds of a secret, in bytes, as the Standard Webhooks specification has them.
const (
	minSecret = 24
	maxSecret = 64
)

const secretPrefix = "whsec_"

// Secret is a key that events are signed with.
type Secret []byte

// ParseSecrets parses secrets of the form whsec_BASE64, separated by commas or white space. The errors do not quote them.
func ParseSecrets(text string) ([]Secret, error) {
	var out []Secret
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || unicode.IsSpace(r) }) {
		encoded, ok := strings.CutPrefix(word, secretPrefix)
		if !ok {
			return nil, errors.New("a secret must begin with whsec_; make one with: echo whsec_$(openssl rand -base64 32)")
		}
		key, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return nil, errors.New("a secret must be whsec_ followed by base64; make one with: echo whsec_$(openssl rand -base64 32)")
		}
		if len(key) < minSecret || len(key) > maxSecret {
			return nil, fmt.Errorf("a secret must be %d to %d bytes in base64, not %d; make one with: echo whsec_$(openssl rand -base64 32)",
				minSecret, maxSecret, len(key))
		}
		out = append(out, key)
	}
	return out, nil
}

// sign returns the header webhook-signature of a message: one signature for each secret, so that a receiver may know the old or the new one.
func sign(secrets []Secret, id string, at time.Time, body []byte) string {
	var signatures []string
	for _, secret := range secrets {
		mac := hmac.New(sha256.New, secret)
		fmt.Fprintf(mac, "%s.%d.", id, at.Unix())
		mac.Write(body)
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return strings.Join(signatures, " ")
}
