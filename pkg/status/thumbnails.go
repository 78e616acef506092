package status

import (
	"context"
	"net/http"
)

// Thumbnails makes small copies of pictures. *thumbnail.Generator does.
type Thumbnails interface {
	// Thumbnail returns a JPEG of the picture of a task.
	Thumbnail(ctx context.Context, taskID string) ([]byte, error)
}

// AddThumbnails adds GET /api/thumbnails/{task_id}. The handler must be behind Access.Handler.
func AddThumbnails(mux *http.ServeMux, t Thumbnails) {
	mux.HandleFunc("GET /api/thumbnails/{task_id}", func(w http.ResponseWriter, r *http.Request) {
		if !identityOf(r.Context()).signedIn() { // Access.Handler has refused it
			refuse(w, r, refusal{http.StatusUnauthorized, "sign_in_required", textSignInRequired})
			return
		}
		made, err := t.Thumbnail(r.Context(), r.PathValue("task_id"))
		if err != nil {
			refuse(w, r, refusal{http.StatusNotFound, "not_found", textNoPicture})
			return
		}
		w.Header().Set("Content-Type", "image/jpeg")
		w.Header().Set("Cache-Control", "private, max-age=300")
		_, _ = w.Write(made)
	})
}
