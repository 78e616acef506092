package store

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/lib/pq"
)

// DefaultSchema is the schema of an installation, unless Config.Schema names another.
const DefaultSchema = "imagetasks"

// Bounds of the schema, which stand in its migrations, too. A balance may be more than MaxBalance after a refund, but not after a grant; JavaScript represents
// every number up to 2^53 exactly.
const (
	MaxCost    = 1_000_000_000_000     // credits of one task, one call or one grant
	MaxBalance = 1_000_000_000_000_000 // credits of one user
	MaxInput   = 25 << 20              // bytes of one input picture
	MaxInputs  = 50 << 20              // bytes of all input pictures of a task
	MaxTasks   = 1000                  // tasks of one call of enqueue_many
	MaxID      = 200                   // characters of a user's id or a task's id
)

// maxSchema bounds a schema's name: PostgreSQL's limit of 63 bytes, less the longest suffix that is added to it.
const maxSchema = 52

const (
	channelSuffix      = "_tasks"
	eventChannelSuffix = "_events"
)

// names is the data of the SQL templates.
type names struct {
	Schema  string // a quoted identifier
	Channel string // of NOTIFY, for tasks that are due
	// EventChannel is the channel of NOTIFY for tasks that were closed.
	EventChannel string
	StartedAt    string // when processing started
}

// tables are the tables of an installation. schema_versions belongs to migrate.
var tables = []string{"tasks", "inputs", "credits", "ledger", "keys", "calls", "processors", "control", "set_aside", "pending_results", "models",
	"bridge", "inbox", "outbox", "bridged_users", "bridge_writes", "bridge_explained", "bridge_failures", "lost_updates", "endpoints", "results", "events",
	"operations", "figures", "alerts", "alert_receivers", "alert_told"}

func newNames(schema string) (names, error) {
	if schema == "" {
		schema = DefaultSchema
	}
	switch {
	case len(schema) > maxSchema:
		return names{}, fmt.Errorf("the name of the schema is longer than %d bytes", maxSchema)
	case strings.ContainsFunc(schema, unicode.IsControl):
		return names{}, errors.New("the name of the schema contains a control character")
	case strings.HasPrefix(schema, "pg_") || schema == "information_schema":
		return names{}, fmt.Errorf("the schema %s belongs to PostgreSQL", schema)
	case schema == "public":
		return names{}, errors.New("the schema public belongs to the application; name a schema of its own, for example imagetasks")
	}
	return names{
		Schema:       pq.QuoteIdentifier(schema),
		Channel:      schema + channelSuffix,
		EventChannel: schema + eventChannelSuffix,
		StartedAt:    "coalesce(processing_started_at, updated_at, created_at)",
	}, nil
}
