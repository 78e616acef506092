package status

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"time"
)

//go:embed page
var pageFiles embed.FS

// pageSecurity lets the page load its own files only: it has no inline script or style, so that text of the database can't
// become either of them.
const pageSecurity = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; " +
	"base-uri 'none'; frame-ancestors 'none'"

// contentTypes are those of the page's files. The operating system's list is not asked, because it may lack them.
var contentTypes = map[string]string{".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
	".svg": "image/svg+xml"}

// AddPage adds the page at / and its files at /assets/.
func AddPage(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { servePageFile(w, r, "index.html") })
	mux.HandleFunc("GET /assets/{file...}", func(w http.ResponseWriter, r *http.Request) {
		file := r.PathValue("file")
		if path.Ext(file) == ".html" {
			file = "" // it is the page, at /
		}
		servePageFile(w, r, file)
	})
}

// servePageFile serves a file of the page. A browser asks each time whether its copy is current, so that files of two versions are never mixed.
func servePageFile(w http.ResponseWriter, r *http.Request, file string) {
	kind := contentTypes[path.Ext(file)]
	content, err := pageFiles.ReadFile("page/" + file)
	if err != nil || kind == "" {
		http.NotFound(w, r)
		return
	}
	sum := sha256.Sum256(content)
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Security-Policy", pageSecurity)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
	http.ServeContent(w, r, file, time.Time{}, bytes.NewReader(content))
}
