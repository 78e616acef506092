// Package picturestore wires the picture store from the settings.
package picturestore

import (
	"context"
	"path/filepath"
	"strings"

	"imagetasks/pkg/picture"
	"imagetasks/pkg/proxy"
	"imagetasks/pkg/s3"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
)

// spoolDir is the directory in LOG_DIR of pictures that wait to be uploaded.
const spoolDir = "picture-spool"

// Opener opens the picture store of the settings. Of an object store it keeps the connections.
type Opener struct {
	settings  settings.Settings
	transport *proxy.Transport // nil: the store is a directory
}

// New returns an Opener. It connects to nothing. It returns an error if the object store's login or proxy can't be used.
func New(s settings.Settings) (*Opener, error) {
	o := &Opener{settings: s}
	if !s.ImageStore.IsBucket() {
		return o, nil
	}
	if err := s.StoreLogin(); err != nil {
		return nil, err
	}
	var env proxy.Env // none: a direct connection
	switch {
	case s.StoreProxy.Env:
		env = proxy.Env(s.Proxy)
		env.OpenAI = nil
	case len(s.StoreProxy.URLs) > 0:
		for _, text := range s.StoreProxy.URLs {
			if _, err := proxy.Parse(text); err != nil {
				return nil, &settings.Error{Name: "IMAGE_STORE_PROXY", Reason: err.Error()}
			}
		}
		env.OpenAI = s.StoreProxy.URLs
	}
	var err error
	o.transport, err = proxy.New(proxy.Config{Env: env, DialTimeout: s.DialTimeout, ConnectTimeout: s.ConnectTimeout, TLSTimeout: s.TLSTimeout})
	return o, err
}

// Close closes the connections that carry no request.
func (o *Opener) Close() {
	if o.transport != nil {
		o.transport.CloseIdleConnections()
	}
}

func (o *Opener) config(i store.Installation) picture.Config {
	s := o.settings
	return picture.Config{Dir: s.ImageStore.Dir, BaseURL: s.ImageBaseURL, MaxBytes: s.ImageMaxBytes, Installation: i.ID, Secret: i.Secret, Copied: i.Copied,
		Spool: picture.Spool{Dir: filepath.Join(s.LogDir, spoolDir), MaxBytes: s.SpoolMax}}
}

func (o *Opener) backend(i store.Installation) (*s3.Backend, error) {
	s := o.settings
	return s3.New(s3.Config{Endpoint: s.ImageStore.Endpoint, Region: s.ImageStore.Region, Bucket: s.ImageStore.Bucket, PathStyle: s.ImageStore.PathStyle,
		Prefix:      strings.TrimPrefix(s.ImageStore.Prefix+"/"+picture.Prefix(i.ID), "/"),
		AccessKeyID: s.AccessKeyID, SecretAccessKey: s.SecretAccessKey, SessionToken: s.SessionToken,
		CacheControl: s.CacheControl, URL: s.ImageBaseURL, Transport: o.transport})
}

// Open opens the installation's picture store, and creates it if necessary.
func (o *Opener) Open(ctx context.Context, i store.Installation) (*picture.Store, error) {
	if o.settings.ImageStore.IsBucket() {
		b, err := o.backend(i)
		if err != nil {
			return nil, err
		}
		return picture.OpenRemote(ctx, o.config(i), b)
	}
	return picture.Open(o.config(i))
}

// OpenExisting opens the installation's picture store, and returns false if there is none. It changes nothing.
func (o *Opener) OpenExisting(ctx context.Context, i store.Installation) (*picture.Store, bool, error) {
	if o.settings.ImageStore.IsBucket() {
		b, err := o.backend(i)
		if err != nil {
			return nil, false, err
		}
		return picture.OpenExistingRemote(ctx, o.config(i), b)
	}
	return picture.OpenExisting(o.config(i))
}

// Existing is OpenExisting with settings whose errors are those of the call: the rest of a program must not depend on them.
func Existing(ctx context.Context, s settings.Settings, i store.Installation) (*picture.Store, bool, error) {
	o, err := New(s)
	if err != nil {
		return nil, false, err
	}
	return o.OpenExisting(ctx, i)
}

// Files returns the names of a task's files in the picture store; a store that does not exist has none.
func Files(ctx context.Context, s settings.Settings, st *store.Store, t store.TaskRow) ([]string, error) {
	installation, err := st.Installation(ctx)
	if err != nil {
		return nil, err
	}
	return files(ctx, s, installation, t)
}

func files(ctx context.Context, s settings.Settings, i store.Installation, t store.TaskRow) ([]string, error) {
	o, err := New(s)
	if err != nil {
		return []string{}, err
	}
	defer o.Close() // a page asks every few seconds
	pictures, exists, err := o.OpenExisting(ctx, i)
	if err != nil || !exists {
		return []string{}, err
	}
	return pictures.Files(ctx, t.ID, t.Run)
}
