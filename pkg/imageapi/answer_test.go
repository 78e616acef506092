package imageapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func parse(r io.Reader, w io.Writer) (answer, error) { return parseAnswer(source{body: r}, w) }

func TestParseAnswer_FindsPicture(t *testing.T) {
	for _, body := range []string{
		`{"data":[{"b64_json":"aGVsbG8="}]}`,
		` { "created" : 1.5e-7 , "data" : [ { "revised_prompt" : "\ud83d\ude00 \"x\"" , "b64_json" : "aGVsbG8=" } ] } `,
		`{"data":[{"b64_json":"aGVs\nbG8=","url":null},{"b64_json":"d29ybGQ="}],"usage":{"a":[1,2,{"b":null}]}}`,
		`{"data":[{"b64_json":"aGVsbG8"}]}`,
		`{"data":[{"url":"","b64_json":"aGVsbG8="}]}`,
		`{"error":null,"data":[{"b64_json":"\u0061GVsbG8="}],"x":true,"y":false}`,
	} {
		for name, read := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "data with EOF": iotest.DataErrReader,
		} {
			var b bytes.Buffer
			a, err := parse(read(strings.NewReader(body)), &b)
			require.NoError(t, err, "%s: %s", name, body)
			assert.True(t, a.wrote)
			assert.False(t, a.failed)
			assert.Equal(t, "hello", b.String(), "%s: %s", name, body)
		}
	}
}

// An answer that breaks off is an error, unless its picture is complete.
func TestParseAnswer_BreaksOff(t *testing.T) {
	fault := errors.New("the connection broke")
	body := `{"data":[{"b64_json":"aGVsbG8="}]}`
	complete := strings.Index(body, `"}]}`) + 1
	for cut := range len(body) {
		var b bytes.Buffer
		a, err := parse(io.MultiReader(strings.NewReader(body[:cut]), iotest.ErrReader(fault)), &b)
		assert.ErrorIs(t, err, fault, "after %q", body[:cut])
		assert.Equal(t, cut >= complete, a.found(), "after %q", body[:cut])
		a, err = parse(strings.NewReader(body[:cut]), io.Discard)
		assert.Error(t, err, "after %q", body[:cut])
		assert.Equal(t, cut >= complete, a.found(), "after %q", body[:cut])
	}
}

// Our parser and encoding/json must agree on what is JSON, and on the picture in it.
func FuzzParseAnswer(f *testing.F) {
	for _, seed := range []string{
		`{"data":[{"b64_json":"aGVsbG8="}]}`, `{"data":[{"b64_json":"a\/b+"}]}`, `{"a":"\ud800\u0041","b":[-0.5E+3,01]}`,
		`{"data":[{"url":"http://x"}],"error":{"code":"c","message":17}}`, `{}`, `{"data":[null]}`, "{\"a\":\"\x01\"}", `{"a":1}{`,
		`{"data":[{"b64_json":"YQ=="},{"b64_json":"YQ=="}]}`, "{\"\xff\":\"\xff\"}", `{"error":"text"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var b bytes.Buffer
		a, err := parse(bytes.NewReader(body), &b)
		if a.form != formJSON {
			return
		}
		if !json.Valid(bytes.TrimPrefix(body, []byte("\ufeff"))) {
			assert.Error(t, err)
			return
		}
		if err != nil {
			return // valid JSON, but too deep, or a picture that isn't base64
		}
		first, ok := firstPicture(body)
		if ok && a.wrote {
			assert.Equal(t, first, b.Bytes())
		}
	})
}

// firstPicture finds the picture as encoding/json sees it; false where the document is ambiguous
// (keys that come twice, or differ in case only).
func firstPicture(body []byte) ([]byte, bool) {
	if bytes.Count(body, []byte(`"b64_json"`)) != 1 || bytes.Count(body, []byte(`"data"`)) != 1 {
		return nil, false
	}
	var d struct {
		Data []map[string]any `json:"data"`
	}
	if err := json.Unmarshal(body, &d); err != nil || len(d.Data) == 0 {
		return nil, false
	}
	text, ok := d.Data[0]["b64_json"].(string)
	if !ok {
		return nil, false
	}
	text = strings.NewReplacer("\r", "", "\n", "", "=", "").Replace(text)
	picture, err := base64.RawStdEncoding.DecodeString(text)
	return picture, err == nil
}

func FuzzStrings(f *testing.F) {
	f.Add("plain")
	f.Add("\\ \" \u0001 \U0001F600 \u2028 \xff")
	f.Fuzz(func(t *testing.T, s string) {
		encoded, err := json.Marshal(s)
		require.NoError(t, err)
		var want string
		require.NoError(t, json.Unmarshal(encoded, &want))
		got, err := newParser(bytes.NewReader(encoded)).text(1 << 20)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	})
}

func FuzzDecodeBase64(f *testing.F) {
	f.Add("aGVsbG8=")
	f.Add("a=b")
	f.Add("YQ")
	f.Add("\n=\n=")
	f.Fuzz(func(t *testing.T, text string) {
		var b bytes.Buffer
		_, err := decodeBase64(&b, iotest.OneByteReader(strings.NewReader(text)))
		want, wantErr := base64.StdEncoding.DecodeString(text)
		if wantErr == nil {
			require.NoError(t, err)
			assert.Equal(t, string(want), b.String())
		}
		if err == nil {
			again := base64.RawStdEncoding.EncodeToString(b.Bytes())
			plain := strings.NewReplacer("\r", "", "\n", "", "=", "").Replace(text)
			assert.Equal(t, len(plain), len(again), "no byte was lost")
		}
	})
}
