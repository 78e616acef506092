package store

import (
	"errors"
	"reflect"
	"sync"

	"imagetasks/pkg/pgurl"
)

// currentConfig is how to connect, of which the password can be replaced. It is safe for concurrent use.
type currentConfig struct {
	env func(name string) (string, bool)

	mu   sync.RWMutex
	conf pgurl.Config
}

func newCurrentConfig(conf pgurl.Config, env func(name string) (string, bool)) *currentConfig {
	return &currentConfig{env: env, conf: conf}
}

func (c *currentConfig) get() pgurl.Config {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.conf
}

// ErrOtherDatabase means that a URL differs in more than the password.
var ErrOtherDatabase = errors.New("DATABASE_URL differs in more than the password")

// CheckURL returns the error that SetURL would return.
func (s *Store) CheckURL(url string) error {
	_, err := s.connector.conf.withPassword(url)
	return err
}

// SetURL makes connections that are opened from now on use the password in url; those that are open stay. It returns
// ErrOtherDatabase for a URL that differs in anything else, and changes nothing then. It is safe for concurrent use.
func (s *Store) SetURL(url string) error {
	c := s.connector.conf
	conf, err := c.withPassword(url)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conf = conf
	return nil
}

// withPassword returns the configuration with the password in url.
func (c *currentConfig) withPassword(url string) (pgurl.Config, error) {
	parsed, err := pgurl.Parse(url, c.env)
	if err != nil {
		return pgurl.Config{}, err
	}
	boundConnect(&parsed)
	conf, other := c.get(), parsed
	if other.ApplicationName == "" {
		other.ApplicationName = conf.ApplicationName
	}
	other.Password, other.Warning = conf.Password, conf.Warning
	if !reflect.DeepEqual(conf, other) {
		return pgurl.Config{}, ErrOtherDatabase
	}
	conf.Password = parsed.Password
	return conf, nil
}
