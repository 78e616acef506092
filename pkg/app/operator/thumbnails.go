package operator

import (
	"context"

	"imagetasks/pkg/app/picturestore"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/status"
	"imagetasks/pkg/store"
	"imagetasks/pkg/thumbnail"
)

// Thumbnails returns what shows small copies of pictures, nil where STATUS_PICTURES is off. open returns the picture store.
func Thumbnails(s settings.Settings, st *store.Store, open func(ctx context.Context) (thumbnail.Pictures, error)) status.Thumbnails {
	if !s.StatusPictures {
		return nil
	}
	return thumbnail.New(st, open)
}

// ExistingPictures returns a function that opens the picture store of the settings if there is one, and changes nothing.
func ExistingPictures(s settings.Settings, st *store.Store) (open func(ctx context.Context) (thumbnail.Pictures, error), stop func()) {
	opener, err := picturestore.New(s)
	if err != nil {
		return func(context.Context) (thumbnail.Pictures, error) { return nil, err }, func() {}
	}
	return func(ctx context.Context) (thumbnail.Pictures, error) {
		installation, err := st.Installation(ctx)
		if err != nil {
			return nil, err
		}
		pictures, exists, err := opener.OpenExisting(ctx, installation)
		if err != nil || !exists {
			return nil, err
		}
		return pictures, nil
	}, opener.Close
}
