// Package browser drives a real browser (Chromium, through chromedriver) in tests, by the W3C WebDriver protocol
// (https://www.w3.org/TR/webdriver2/). A browser has a profile of its own, and ends with the test that started it.
package browser

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"imagetasks/internal/postgres"
)

const (
	startTimeout   = time.Minute
	commandTimeout = time.Minute
	// waitTimeout is how long Wait waits for a condition. A machine that runs other tests may be slow.
	waitTimeout  = 30 * time.Second
	pollInterval = 20 * time.Millisecond
)

// Browser is a browser with one window. Its methods fail the test at an error. It may be used by one goroutine at a time.
type Browser struct {
	tb      testing.TB
	session string // URL
	client  *http.Client
}

// Start starts a browser. It is stopped, with all its processes, when the test ends.
func Start(tb testing.TB) *Browser {
	tb.Helper()
	driver, chromium := find(tb, "chromedriver", "chromium-driver"), find(tb, "chromium", "chromium")
	profile := tb.TempDir()
	cmd := exec.Command(driver, "--port=0")
	// What the browser writes outside of its profile goes there, too.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + profile, "TMPDIR=" + profile, "LANG=C.UTF-8", "TZ=UTC"}
	cmd.Dir = profile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	read, write, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = write, write
	exited, err := postgres.StartChild(cmd, syscall.SIGKILL)
	_ = write.Close()
	if err != nil {
		tb.Fatalf("start chromedriver: %v", err)
	}
	port, output := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(output)
		readPort(read, port)
	}()
	b := &Browser{tb: tb, client: &http.Client{Transport: &http.Transport{}, Timeout: commandTimeout}}
	tb.Cleanup(func() {
		b.quit()
		// Chromium is in the process group of chromedriver, and has processes of its own.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-exited
		_ = read.Close()
		<-output
		b.client.CloseIdleConnections()
		removeProfile(profile)
	})
	select {
	case p := <-port:
		b.newSession("http://127.0.0.1:"+p, chromium, profile)
	case <-exited:
		tb.Fatal("chromedriver ended while it started")
	case <-time.After(startTimeout):
		tb.Fatal("chromedriver does not say its port")
	}
	return b
}

// With returns the same browser for a subtest, which its errors fail.
func (b *Browser) With(tb testing.TB) *Browser {
	other := *b
	other.tb = tb
	return &other
}

func find(tb testing.TB, program, pkg string) string {
	tb.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		tb.Fatalf("%s is not installed; install it: sudo apt-get install %s (Debian), brew install --cask chromium chromedriver (macOS)", program, pkg)
	}
	return path
}

var startedLine = regexp.MustCompile(`started successfully on port (\d+)`)

// readPort sends the port that chromedriver prints, and reads its output to the end.
func readPort(from io.Reader, port chan<- string) {
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		if found := startedLine.FindStringSubmatch(lines.Text()); found != nil {
			select {
			case port <- found[1]:
			default:
			}
		}
	}
}

// removeProfile removes the profile. Processes of the browser that end may still write to it.
func removeProfile(dir string) {
	for range 100 {
		if os.RemoveAll(filepath.Join(dir, "profile")) == nil {
			return
		}
		time.Sleep(pollInterval)
	}
}

func (b *Browser) newSession(driver, chromium, profile string) {
	b.tb.Helper()
	// With a pipe, Chromium ends with chromedriver, however that ends.
	args := []string{"--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-default-browser-check",
		"--disable-extensions", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
		"--force-color-profile=srgb", "--no-proxy-server", "--remote-debugging-pipe", "--lang=en-US", "--user-data-dir=" + filepath.Join(profile, "profile")}
	if os.Geteuid() == 0 {
		args = append(args, "--no-sandbox") // Chromium refuses to run as root with it
	}
	var answer struct{ SessionID string }
	b.session = driver
	b.call(&answer, http.MethodPost, "/session", map[string]any{"capabilities": map[string]any{"alwaysMatch": map[string]any{
		"browserName":         "chrome",
		"goog:chromeOptions":  map[string]any{"binary": chromium, "args": args},
		"goog:loggingPrefs":   map[string]string{"browser": "ALL"},
		"pageLoadStrategy":    "normal",
		"timeouts":            map[string]int{"script": int(waitTimeout.Milliseconds())},
		"acceptInsecureCerts": false,
	}}})
	b.session = driver + "/session/" + answer.SessionID
}

// quit closes the browser; what does not end by that is killed by the caller.
func (b *Browser) quit() {
	if !strings.Contains(b.session, "/session/") {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = b.do(ctx, nil, http.MethodDelete, "", nil)
}

// call sends a command and decodes the value that it returns.
func (b *Browser) call(into any, method, path string, body any) {
	b.tb.Helper()
	if err := b.do(b.tb.Context(), into, method, path, body); err != nil {
		b.tb.Fatalf("browser: %s %s: %v", method, path, err)
	}
}

// commandError is an error of a command.
type commandError struct {
	Code    string `json:"error"`
	Message string `json:"message"`
}

// Error implements error.
func (e *commandError) Error() string {
	message, _, _ := strings.Cut(e.Message, "\n")
	return e.Code + ": " + message
}

func (b *Browser) do(ctx context.Context, into any, method, path string, body any) error {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, b.session+path, content)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := b.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var answer struct{ Value json.RawMessage }
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		failure := &commandError{Code: response.Status}
		_ = json.Unmarshal(answer.Value, failure)
		return failure
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer.Value, into)
}

// Open loads a page and waits until it has loaded.
func (b *Browser) Open(url string) {
	b.tb.Helper()
	b.call(nil, http.MethodPost, "/url", map[string]string{"url": url})
}

// Eval runs the body of a JavaScript function in the page, and decodes what it returns. A promise is awaited.
func (b *Browser) Eval(into any, body string, args ...any) {
	b.tb.Helper()
	b.call(into, http.MethodPost, "/execute/sync", map[string]any{"script": body, "args": append([]any{}, args...)})
}

// Text returns the text that is shown in the first element of a CSS selector.
func (b *Browser) Text(selector string) string {
	b.tb.Helper()
	var text *string
	b.Eval(&text, `return document.querySelector(arguments[0])?.innerText`, selector)
	if text == nil {
		b.tb.Fatalf("browser: no element %s", selector)
	}
	return *text
}

// Count returns how many elements match a CSS selector.
func (b *Browser) Count(selector string) int {
	b.tb.Helper()
	var n int
	b.Eval(&n, `return document.querySelectorAll(arguments[0]).length`, selector)
	return n
}

// Wait waits until a JavaScript expression is true. what says in the error what did not happen.
func (b *Browser) Wait(what, expression string, args ...any) {
	b.tb.Helper()
	deadline := time.Now().Add(waitTimeout)
	for {
		var ok bool
		b.Eval(&ok, "return Boolean("+expression+")", args...)
		if ok {
			return
		}
		if time.Now().After(deadline) {
			var shown string
			b.Eval(&shown, `return (document.querySelector("dialog") ?? document.body).innerText.slice(0, 3000)`)
			b.tb.Fatalf("browser: waited %s for %s; the page shows:\n%s", waitTimeout, what, shown)
		}
		time.Sleep(pollInterval)
	}
}

// WaitText waits until the first element of a CSS selector shows a text.
func (b *Browser) WaitText(selector, text string) {
	b.tb.Helper()
	b.Wait(fmt.Sprintf("%q in %s", text, selector), `document.querySelector(arguments[0])?.innerText.includes(arguments[1])`, selector, text)
}

// elementKey is the name of a reference to an element in the protocol.
const elementKey = "element-6066-11e4-a52e-4f735466cecf"

// element waits for the first element of a CSS selector.
func (b *Browser) element(selector string) string {
	b.tb.Helper()
	b.Wait("an element "+selector, `document.querySelector(arguments[0])`, selector)
	var found map[string]string
	b.call(&found, http.MethodPost, "/element", map[string]string{"using": "css selector", "value": selector})
	return found[elementKey]
}

// onElement does something with the first element of a CSS selector, and once more if the page replaced the element meanwhile.
func (b *Browser) onElement(selector, command string, body any) {
	b.tb.Helper()
	deadline := time.Now().Add(waitTimeout)
	for {
		err := b.do(b.tb.Context(), nil, http.MethodPost, "/element/"+b.element(selector)+command, body)
		if err == nil {
			return
		}
		failure, known := errors.AsType[*commandError](err)
		if !known || failure.Code != "stale element reference" || time.Now().After(deadline) {
			b.tb.Fatalf("browser: %s of %s: %v", command, selector, err)
		}
	}
}

// Click clicks the first element of a CSS selector, as a mouse does: an element that is covered or hidden is an error.
func (b *Browser) Click(selector string) { b.tb.Helper(); b.onElement(selector, "/click", struct{}{}) }

// Type replaces the content of a field.
func (b *Browser) Type(selector, text string) {
	b.tb.Helper()
	b.onElement(selector, "/clear", struct{}{})
	b.onElement(selector, "/value", map[string]string{"text": text})
}

// Keys of the protocol, for Press.
const (
	Tab    = "\ue004"
	Enter  = "\ue007"
	Escape = "\ue00c"
	Shift  = "\ue008"
	Space  = " "
)

// Press presses and releases keys, one after the other, in whatever has the focus. Shift is held until the end.
func (b *Browser) Press(keys ...string) {
	b.tb.Helper()
	actions := []map[string]string{}
	release := []map[string]string{}
	for _, key := range keys {
		actions = append(actions, map[string]string{"type": "keyDown", "value": key})
		up := map[string]string{"type": "keyUp", "value": key}
		if key == Shift {
			release = append(release, up)
			continue
		}
		actions = append(actions, up)
	}
	b.call(nil, http.MethodPost, "/actions", map[string]any{"actions": []any{map[string]any{"type": "key", "id": "keyboard", "actions": append(actions, release...)}}})
}

// Write types a text in whatever has the focus.
func (b *Browser) Write(text string) { b.tb.Helper(); b.Press(strings.Split(text, "")...) }

// CDP sends a command of the Chrome DevTools Protocol.
func (b *Browser) CDP(command string, params map[string]any) {
	b.tb.Helper()
	b.call(nil, http.MethodPost, "/goog/cdp/execute", map[string]any{"cmd": command, "params": params})
}

// Resize sets the size of the page in CSS pixels. A window can't be as narrow as a phone, so the page alone is resized.
func (b *Browser) Resize(width, height int) {
	b.tb.Helper()
	b.CDP("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false})
}

// Prefer sets what the person prefers: a color scheme (light or dark), and that nothing moves.
func (b *Browser) Prefer(scheme string) {
	b.tb.Helper()
	b.CDP("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{
		{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": "reduce"}}})
}

// Languages sets the languages that the person prefers, for example "zh-CN,zh". It takes effect at the next load.
func (b *Browser) Languages(list string) {
	b.tb.Helper()
	var agent string
	b.Eval(&agent, `return navigator.userAgent`)
	b.CDP("Emulation.setUserAgentOverride", map[string]any{"userAgent": agent, "acceptLanguage": list})
}

// Clear deletes cookies and what the pages of this address have stored.
func (b *Browser) Clear() {
	b.tb.Helper()
	b.CDP("Network.clearBrowserCookies", map[string]any{})
	b.Eval(nil, `localStorage.clear(); sessionStorage.clear()`)
}

// Screenshot returns what the page shows, as PNG.
func (b *Browser) Screenshot() []byte {
	b.tb.Helper()
	var text string
	b.call(&text, http.MethodGet, "/screenshot", nil)
	picture, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		b.tb.Fatalf("browser: the screenshot is not base64: %v", err)
	}
	return picture
}

// LogEntry is a line of the browser's console.
type LogEntry struct{ Level, Source, Message string }

// Console returns the lines of the console since the last call.
func (b *Browser) Console() []LogEntry {
	b.tb.Helper()
	var out []LogEntry
	b.call(&out, http.MethodPost, "/se/log", map[string]string{"type": "browser"})
	return out
}
