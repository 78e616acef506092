package endpoint

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const secret = "sk-hunter2"

// variables are an environment.
func variables(name string) (string, bool) {
	v, ok := map[string]string{"RELAY_KEY": secret, "BAD_KEY": "sk-hunter2 \n", "EMPTY": "", "RELAY_PROXIES": "http://u:hunter2@p:1, socks5://q",
		"MIXED_PROXIES": "direct http://p", "NO_PROXIES": " , "}[name]
	return v, ok
}

func files(name string) ([]byte, error) {
	switch name {
	case "prompt.tmpl":
		return []byte("\ufeff{{.Prompt}}"), nil
	case "empty.tmpl":
		return []byte(" \n"), nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

const (
	least = "[[endpoint]]\nname = \"a\"\nbase_url = \"https://relay.example/v1\"\nkey_env = \"RELAY_KEY\"\n"
	full  = `
[bridge]
tasks = "a.b"

[[endpoint]]
name = "relay-a"
base_url = "https://relay.example/v1/chat/completions?x=y"
key_env = "RELAY_KEY"
mode = "chat"
stream = false
template = "prompt.tmpl"
models = { "gpt-image-2" = "gpt-4o-image-vip", "m.2" = "m.2" }
proxies = ["http://127.0.0.1:7890", "socks5h://127.0.0.1:1080"]
concurrency = 10
rate = 30
preference = 7
weight = 3
currency = "CNY"
prices = [
  { model = "gpt-image-2", quality = "high", price = "0.25" },
  { model = "gpt-image-2", price = 0.1 },
  { price = 1 },
]

[[endpoint]]
name = "b"
base_url = "https://b.example"
key_env = "RELAY_KEY"
models = ["m1", "m2"]
stream = true
partial_images = 2
proxies_env = "RELAY_PROXIES"

[[endpoint.prices]]
model = "m1"
price = 0.000001

[[endpoint]]
name = "c"
base_url = "http://127.0.0.1:3000/v1"
key_env = "RELAY_KEY"
proxies = ["direct"]

[alert]
x = 1
`
)

func TestParse(t *testing.T) {
	t.Parallel()
	got, err := Parse([]byte("\ufeff"+full), variables, files)
	require.NoError(t, err)
	on, off := true, false
	assert.Equal(t, []Endpoint{
		{Name: "relay-a", BaseURL: "https://relay.example/v1?x=y", KeyEnv: "RELAY_KEY", Key: secret, Mode: Chat, Stream: &off, Template: "{{.Prompt}}", TemplateFile: "prompt.tmpl",
			Models: map[string]string{"gpt-image-2": "gpt-4o-image-vip", "m.2": "m.2"}, Proxies: []string{"http://127.0.0.1:7890", "socks5h://127.0.0.1:1080"},
			Concurrency: 10, Rate: 30, Preference: 7, Weight: 3, Currency: "CNY",
			Prices: []Price{{"gpt-image-2", "high", 250_000}, {"gpt-image-2", "", 100_000}, {"", "", 1_000_000}}},
		{Name: "b", BaseURL: "https://b.example", KeyEnv: "RELAY_KEY", Key: secret, Mode: Images, Stream: &on, PartialImages: 2,
			Models: map[string]string{"m1": "m1", "m2": "m2"}, Proxies: []string{"http://u:hunter2@p:1", "socks5://q"},
			Preference: 2, Weight: 1, Currency: "USD", Prices: []Price{{"m1", "", 1}}},
		{Name: "c", BaseURL: "http://127.0.0.1:3000/v1", KeyEnv: "RELAY_KEY", Key: secret, Mode: Images, Proxies: []string{"direct"},
			Preference: 3, Weight: 1, Currency: "USD"},
	}, got)

	for _, text := range []string{"", "# nothing\n", "[bridge]\ntasks = 'a.b'\n[alert]\nx = 1\n"} {
		got, err = Parse([]byte(text), variables, files)
		require.NoError(t, err)
		assert.Empty(t, got)
	}
}

func TestParse_Faults(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"[[endpoint]]\nname = \n":        "line 2 is not valid TOML",
		"key = sk-hunter2":               "line 1 is not valid TOML",
		"[endpoint]\nname = 'a'\n":       "each endpoint is a part of its own with two brackets: [[endpoint]]",
		"endpoint = 'a'\n":               "each endpoint is a part of its own with two brackets: [[endpoint]]",
		"[[endpoints]]\nname = 'a'\n":    "unknown part [[endpoints]]; did you mean [[endpoint]]?",
		"[[Endpoint]]\nname = 'a'\n":     "unknown part [[Endpoint]]; did you mean [[endpoint]]?",
		"[[endpoint]]\n":                 "endpoint 1: name: it is missing",
		"[[endpoint]]\nname = 'a'":       `endpoint "a": base_url: it is missing`,
		"[[endpoint]]\nbase_url = 'a'\n": "endpoint 1: key_env: it is missing",
		least + least:                    `endpoint "a": name: another endpoint has this name`,

		least + "basis = 'x'\n":                                                               `endpoint "a": basis: there is no such key; known keys: name, base_url, key_env`,
		least + "base_ulr = 'x'\n":                                                            `endpoint "a": base_ulr: there is no such key; did you mean base_url?`,
		least + "key = 'sk-hunter2'\n":                                                        `endpoint "a": key: the key must not be in this file; set it in the environment or the env file, and name that variable in key_env`,
		least + "api_key = 'sk-hunter2'\n":                                                    `endpoint "a": api_key: the key must not be in this file`,
		least + "mode = 'image'\n":                                                            `endpoint "a": mode: must be "images" or "chat"`,
		least + "name = 'b'\n":                                                                "line 5 is not valid TOML; texts need straight quotation marks, and a key may stand only once in a part",
		least + "prices = [{price=1}, {price=2}]\n":                                           `endpoint "a": prices: there are two prices for every model and quality`,
		least + "proxies = ['Direct']\n":                                                      `endpoint "a": proxies: must be ["direct"] for none`,
		least + "proxies = ['none']\n":                                                        `endpoint "a": proxies: must be ["direct"] for none`,
		least + "mode = 1\n":                                                                  `endpoint "a": mode: must be "images" or "chat"`,
		least + "stream = 'on'\n":                                                             `endpoint "a": stream: must be true or false`,
		least + "rate = '30'\n":                                                               `endpoint "a": rate: must be a whole number from 0 to 1000000`,
		least + "rate = -1\n":                                                                 `endpoint "a": rate: must be a whole number`,
		least + "weight = 0\n":                                                                `endpoint "a": weight: must be a whole number from 1`,
		least + "concurrency = 1.5\n":                                                         `endpoint "a": concurrency: must be a whole number`,
		least + "partial_images = 4\n":                                                        `endpoint "a": partial_images: must be a whole number from 0 to 3`,
		least + "partial_images = 1\n":                                                        `endpoint "a": partial_images: it needs mode = "images" and stream = true`,
		least + "template = 'prompt.tmpl'\n":                                                  `endpoint "a": template: it is for mode = "chat" only`,
		least + "mode = 'chat'\ntemplate = 'x.tmpl'\n":                                        `endpoint "a": template: open x.tmpl: file does not exist`,
		least + "mode = 'chat'\ntemplate = ''\n":                                              `endpoint "a": template: must be the name of a file`,
		least + "mode = 'chat'\ntemplate='empty.tmpl'":                                        `endpoint "a": template: the file empty.tmpl must hold text in UTF-8, at most 65536 bytes`,
		least + "models = []\n":                                                               `endpoint "a": models: must be a list such as`,
		least + "models = {}\n":                                                               `endpoint "a": models: must be a list such as`,
		least + "models = [1]\n":                                                              `endpoint "a": models: must be a list such as`,
		least + "models = { a = 1 }\n":                                                        `endpoint "a": models: must be a list such as`,
		least + "models = 'a'\n":                                                              `endpoint "a": models: must be a list such as`,
		least + "proxies = []\n":                                                              `endpoint "a": proxies: must be a list such as`,
		least + "proxies = 'direct'\n":                                                        `endpoint "a": proxies: must be a list such as`,
		least + "proxies = [1]\n":                                                             `endpoint "a": proxies: must be a list of texts`,
		least + "proxies = ['http://u:hunter2@p']\n":                                          `endpoint "a": proxies: a password must not be in this file; set the proxies in the environment or the env file, and name that variable in proxies_env`,
		least + "proxies = ['http://p,http://q']\n":                                           `endpoint "a": proxies: each proxy is a text of its own in the list`,
		least + "proxies = ['direct', 'http://p']\n":                                          `endpoint "a": proxies: "direct" can't be combined with proxies`,
		least + "proxies_env = 'MIXED_PROXIES'\n":                                             `endpoint "a": proxies_env: "direct" can't be combined with proxies`,
		least + "proxies_env = 'NO_PROXIES'\n":                                                `endpoint "a": proxies_env: the environment variable contains no proxy`,
		least + "proxies_env = 'EMPTY'\n":                                                     `endpoint "a": proxies_env: the environment variable EMPTY is not set; set it in the env file`,
		least + "proxies_env = 'http://hunter2@p'\n":                                          `endpoint "a": proxies_env: must be the name of the environment variable that holds the proxies, in capital letters, and not its value`,
		least + "proxies_env='RELAY_PROXIES'\nproxies=['direct']\n":                           `endpoint "a": proxies_env: it can't be combined with proxies`,
		least + "currency = 'CNY'\n":                                                          `endpoint "a": currency: it is the currency of prices, of which there are none`,
		least + "currency = 'yuan'\nprices=[{price=1}]":                                       `endpoint "a": currency: must be three capital letters`,
		least + "prices = []\n":                                                               `endpoint "a": prices: must be a list such as`,
		least + "prices = 1\n":                                                                `endpoint "a": prices: must be a list such as`,
		least + "prices = [1]\n":                                                              `endpoint "a": prices: price 1: price must be a number or a text from 0 to 1000000 with at most 6 digits after the point`,
		least + "prices = [{price=1},{modle='m'}]\n":                                          `endpoint "a": prices: price 2: there is no key modle; did you mean model?`, //nolint:misspell // that is the point
		least + "prices = [{price=1, quality=1}]\n":                                           `endpoint "a": prices: price 1: quality must be a text`,
		least + "prices = [{price=1, model=''}]\n":                                            `endpoint "a": prices: price 1: model must be a text`,
		least + "models=['m']\nprices = [{price=1, model='n'}]\n":                             `endpoint "a": prices: the endpoint's models do not contain "n"`,
		least + "prices = [{price=1, quality='high'}, {price=2, quality='High'}]\n":           `endpoint "a": prices: there are two prices for the quality "High"`,
		strings.Replace(least, `"a"`, `"A b"`, 1):                                             `endpoint 1: name: must be 1 to 63 lower-case letters`,
		strings.Replace(least, `"a"`, `5`, 1):                                                 `endpoint 1: name: must be 1 to 63 lower-case letters`,
		strings.Replace(least, `"https://relay.example/v1"`, `5`, 1):                          `endpoint "a": base_url: must be a text in quotation marks`,
		strings.Replace(least, `https://`, `https://u:hunter2@`, 1):                           `endpoint "a": base_url: must not contain a login or a fragment`,
		strings.Replace(least, "RELAY_KEY", "OTHER_KEY", 1):                                   `endpoint "a": key_env: the environment variable OTHER_KEY is not set; set it in the env file`,
		strings.Replace(least, "RELAY_KEY", "BAD_KEY", 1):                                     `endpoint "a": key_env: the environment variable BAD_KEY contains white space`,
		strings.Replace(least, "RELAY_KEY", secret, 1):                                        `endpoint "a": key_env: must be the name of the environment variable that holds the key, in capital letters, and not its value`,
		strings.Replace(least, "RELAY_KEY", "HUNTER2HUNTER2HUNTER2", 1):                       `endpoint "a": key_env: must be the name of the environment variable`,
		strings.Repeat("[[endpoint]]\n", maxEndpoints+1):                                      "there are 101 endpoints; at most 100 are possible",
		least + strings.Replace(least, `"a"`, `"b"`, 1) + "rat = 1\n[[endpoint]]\nname='c'\n": `endpoint "b": rat: there is no such key; did you mean rate?`,
	} {
		got, err := Parse([]byte(text), variables, files)
		require.ErrorContains(t, err, want, text)
		assert.Empty(t, got)
		assert.NotContains(t, strings.ToLower(err.Error()), "hunter2", text)
	}
	_, err := Parse([]byte(least+"rate = 'x'\nweight = 'x'\n[[endpoint]]\nname = 'b'\n"), variables, files)
	for _, want := range []string{`"a": rate`, `"a": weight`, `"b": base_url`, `"b": key_env`} {
		assert.ErrorContains(t, err, want, "all faults at once")
	}
}

// What is written is what is meant: prices are added up over many pictures.
func TestMicros(t *testing.T) {
	t.Parallel()
	for value, want := range map[any]int64{
		"0.25": 250_000, 0.25: 250_000, 0.1: 100_000, 0.000001: 1, "0.000001": 1, 0.3: 300_000, 19.99: 19_990_000, 123456.789012: 123_456_789_012,
		int64(3): 3_000_000, "3": 3_000_000, int64(0): 0, 0.0: 0, "0.10": 100_000, "1000000": 1_000_000_000_000, 4.35: 4_350_000,
	} {
		got, err := micros(value)
		require.NoError(t, err, value)
		assert.Equal(t, want, got, value)
	}
	for _, value := range []any{nil, "", ".", ".5", "1.", "-1", -1.0, int64(-1), "1,5", "1e3", "0.0000001", 1e-7, "1000000.000001", "1.2.3", 1e300, " 1", "٣", true} {
		_, err := micros(value)
		assert.Error(t, err, value)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte(least + "prices = [1]\n"))
	f.Add([]byte("endpoint = [[]]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := Parse(text, variables, files)
		if err != nil {
			assert.Empty(t, got)
			return
		}
		for _, e := range got {
			assert.NotEmpty(t, e.Name)
			assert.Equal(t, secret, e.Key)
		}
	})
}

var root = filepath.Join("..", "..")

// The example in the repository shows every key, and can be used once its comments are removed.
func TestExample(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, "imagetasks.example.toml"))
	require.NoError(t, err)
	anyKey := func(string) (string, bool) { return "http://127.0.0.1:7890", true }
	anyFile := func(string) ([]byte, error) { return []byte("{{.Prompt}}"), nil }
	got, err := Parse(text, anyKey, anyFile)
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(got), 2)

	// A commented line that is a key, or a part, begins with # and no space.
	var all []string
	for line := range strings.Lines(string(text)) {
		rest, commented := strings.CutPrefix(line, "#")
		if commented && !strings.HasPrefix(rest, " ") && strings.TrimSpace(rest) != "" {
			line = rest
		}
		all = append(all, line)
	}
	uncommented := strings.Join(all, "")
	_, err = Parse([]byte(uncommented), anyKey, anyFile)
	require.NoError(t, err, uncommented)
	for _, name := range keyNames() {
		assert.Regexp(t, `(?m)^#?`+name+` = `, string(text))
	}
}

// The page on relays describes every key.
func TestRelaysPage_EveryKey(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(root, "docs", "relays.md"))
	require.NoError(t, err)
	for _, name := range keyNames() {
		assert.Contains(t, string(page), "\n| `"+name+"` |", name)
	}
	blocks := strings.Split(string(page), "```toml\n")[1:]
	require.NotEmpty(t, blocks)
	for _, block := range blocks {
		block, _, _ = strings.Cut(block, "```")
		got, err := Parse([]byte(block), func(string) (string, bool) { return "http://127.0.0.1:7890", true }, func(string) ([]byte, error) { return []byte("{{.Prompt}}"), nil })
		require.NoError(t, err, block)
		assert.NotEmpty(t, got, block)
	}
}

func TestParse_UnreadableTemplate(t *testing.T) {
	t.Parallel()
	_, err := Parse([]byte(least+"mode = 'chat'\ntemplate = 'p'\n"), variables, func(string) ([]byte, error) { return nil, errors.New("permission denied") })
	assert.ErrorContains(t, err, `endpoint "a": template: permission denied`)
}
