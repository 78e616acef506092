package bridge

// Catalog is what the database says about the application's tables, and a sample of what they hold.
type Catalog struct {
	Database string          `json:"database"`
	Role     string          `json:"role"`     // of the connection
	Supabase bool            `json:"supabase"` // the database has Supabase's roles
	Tables   []CatalogTable  `json:"tables"`   // of all schemas but PostgreSQL's and ours
	Routines []CatalogFunc   `json:"functions"`
	Schemas  map[string]bool `json:"schemas"` // of these schemas this role may use objects
}

// CatalogTable is one table.
type CatalogTable struct {
	Table    Table           `json:"table"`
	Kind     string          `json:"kind"`           // table, partitioned or foreign
	Rows     int64           `json:"rows"`           // exact for small tables, else the planner's estimate
	Exact    bool            `json:"exact"`          // whether Rows is exact
	Note     string          `json:"note,omitempty"` // why the rows could not be counted or sampled
	RowLevel bool            `json:"row_level"`      // row-level security applies to this role: it may not see all rows
	Secured  bool            `json:"secured"`        // row-level security is enabled
	Missing  []string        `json:"missing"`        // privileges that this role lacks: SELECT, INSERT, UPDATE, TRIGGER
	Columns  []CatalogColumn `json:"columns"`
	Unique   [][]string      `json:"unique"` // columns of primary keys and unique indexes (not partial, not of expressions), the primary key first
	Keys     []ForeignKey    `json:"foreign_keys"`
	Checks   []string        `json:"checks"`   // definitions of CHECK constraints
	Triggers []CatalogTrig   `json:"triggers"` // not internal ones, and not ours
}

// CatalogColumn is one column of a table, with what a sample of its rows holds.
type CatalogColumn struct {
	Name      string   `json:"name"`
	Type      string   `json:"type"`      // as format_type writes it: character varying(50), text[], numeric(10,2)
	Base      string   `json:"base"`      // without length: text, varchar, bool, int4, int8, numeric, uuid, jsonb, timestamptz, timestamp, _text, or enum
	Labels    []string `json:"labels"`    // of an enum
	NotNull   bool     `json:"not_null"`  // and not generated
	Default   string   `json:"default"`   // expression
	Generated bool     `json:"generated"` // or an identity that is always generated: it can't be written
	Identity  bool     `json:"identity"`
	MaxLength int      `json:"max_length"` // of varchar(n), 0: any
	Scale     int      `json:"scale"`      // of numeric(p,s); -1: any
	Digits    int      `json:"digits"`     // of numeric: most digits after the point in the sample
	// Values are the distinct short values of the sample, with their number, the most frequent first; only for columns that may hold words
	// (text of at most 40 characters, enum, bool) and for numbers of few different values. Never prompts: columns with long or mostly
	// different values have none.
	Values   []CatalogValue `json:"values"`
	Filled   float64        `json:"filled"`   // share of rows of the sample that are not null and not empty
	Distinct float64        `json:"distinct"` // share of different values among these
	Like     string         `json:"like"`     // what most values look like: url, data_url, base64, file, uuid, json, number, email, or ""
	// Form is where a JSON value of the sample holds URLs, with "{url}" in their place and without everything else: {"images":[{"url":"{url}"}]}.
	Form string `json:"form,omitempty"`
}

// CatalogValue is a value and its number of rows in the sample.
type CatalogValue struct {
	Value string `json:"value"`
	Rows  int64  `json:"rows"`
}

// ForeignKey refers to another table.
type ForeignKey struct {
	Columns  []string `json:"columns"`
	To       Table    `json:"to"`
	Referred []string `json:"referred"`
	OnDelete string   `json:"on_delete"` // cascade, set null, restrict, no action or set default
}

// CatalogTrig is a trigger of the application.
type CatalogTrig struct {
	Name       string `json:"name"`
	Definition string `json:"definition"`
	Function   string `json:"function"`
	Enabled    bool   `json:"enabled"`
}

// CatalogFunc is a function of the application.
type CatalogFunc struct {
	Schema    string `json:"schema"`
	Name      string `json:"name"`
	Arguments string `json:"arguments"` // as pg_get_function_identity_arguments writes them, with their names
	Result    string `json:"result"`
}

// Find returns the table of that name.
func (c Catalog) Find(t Table) (CatalogTable, bool) {
	for _, found := range c.Tables {
		if found.Table == t {
			return found, true
		}
	}
	return CatalogTable{}, false
}

// Column returns the column of that name.
func (t CatalogTable) Column(name string) (CatalogColumn, bool) {
	for _, c := range t.Columns {
		if c.Name == name {
			return c, true
		}
	}
	return CatalogColumn{}, false
}
