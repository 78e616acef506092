package store

import "context"

// Installation identifies an installation, on every host that shares its database.
type Installation struct {
	ID     string // a UUID
	Secret []byte // from which the names of pictures are computed
	Copied bool   // this database is a copy or a restored backup of another one
}

// Installation returns the identity of the installation.
func (s *Store) Installation(ctx context.Context) (Installation, error) {
	var i Installation
	err := s.queryRow(ctx, s.sql.installation, nil, &i.ID, &i.Secret, &i.Copied)
	return i, err
}
