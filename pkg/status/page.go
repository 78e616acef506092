package status

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
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

// asset is a file of the page.
type asset struct {
	name, etag string
	content    []byte
}

// serve serves the file. A browser asks each time whether its copy is current, so that files of two versions are never mixed.
func (a asset) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", contentTypes[path.Ext(a.name)])
	h.Set("Content-Security-Policy", pageSecurity)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", a.etag)
	http.ServeContent(w, r, a.name, time.Time{}, bytes.NewReader(a.content))
}

// AddPage adds the page at / and its files at /assets/.
func AddPage(mux *http.ServeMux) error {
	return fs.WalkDir(pageFiles, "page", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || contentTypes[path.Ext(file)] == "" {
			return err
		}
		content, err := pageFiles.ReadFile(file)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(content)
		a := asset{name: path.Base(file), etag: `"` + hex.EncodeToString(sum[:16]) + `"`, content: content}
		at := "GET /assets/" + file[len("page/"):]
		if file == "page/index.html" {
			at = "GET /{$}"
		}
		mux.HandleFunc(at, a.serve)
		return nil
	})
}
