package app

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/endpoint"
	"imagetasks/pkg/settings"
)

// TablesName is the name of the file with the settings that are lists or tables: the bridge and the endpoints.
const TablesName = "imagetasks.toml"

// TablesFile returns the path of the file TablesName, which is beside the env file.
func TablesFile(c *cli.Context) string {
	env, _ := envFile(c)
	return filepath.Join(filepath.Dir(env), TablesName)
}

// readEndpoints reads the endpoints of a file; none where it does not exist. Its error holds a *settings.Error for each fault.
func readEndpoints(path string, variable func(string) (string, bool)) ([]endpoint.Endpoint, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &settings.Error{Name: path, Reason: withoutPath(err).Error()}
	}
	all, err := endpoint.Parse(text, variable, func(name string) ([]byte, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(path), name)
		}
		return os.ReadFile(name)
	})
	if err == nil {
		return all, nil
	}
	faults := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		faults = joined.Unwrap()
	}
	for i, fault := range faults {
		faults[i] = &settings.Error{Name: path, Reason: fault.Error()}
	}
	return nil, errors.Join(faults...)
}

// withoutPath removes the path that the error of a file begins with.
func withoutPath(err error) error {
	if wrapped, ok := errors.AsType[*fs.PathError](err); ok {
		return wrapped.Err
	}
	return err
}
