package pgurl

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// keywords are the parameters of libpq with their environment variables, and those that lib/pq adds to them.
var keywords = map[string]string{
	"application_name":          "PGAPPNAME",
	"channel_binding":           "PGCHANNELBINDING",
	"client_encoding":           "PGCLIENTENCODING",
	"connect_timeout":           "PGCONNECT_TIMEOUT",
	"dbname":                    "PGDATABASE",
	"fallback_application_name": "",
	"gssdelegation":             "PGGSSDELEGATION",
	"gssencmode":                "PGGSSENCMODE",
	"gsslib":                    "PGGSSLIB",
	"host":                      "PGHOST",
	"hostaddr":                  "PGHOSTADDR",
	"keepalives":                "",
	"keepalives_count":          "",
	"keepalives_idle":           "",
	"keepalives_interval":       "",
	"krbsrvname":                "PGKRBSRVNAME",
	"load_balance_hosts":        "PGLOADBALANCEHOSTS",
	"max_protocol_version":      "PGMAXPROTOCOLVERSION",
	"min_protocol_version":      "PGMINPROTOCOLVERSION",
	"oauth_client_id":           "",
	"oauth_client_secret":       "",
	"oauth_issuer":              "",
	"oauth_scope":               "",
	"options":                   "PGOPTIONS",
	"passfile":                  "PGPASSFILE",
	"password":                  "PGPASSWORD",
	"port":                      "PGPORT",
	"replication":               "",
	"require_auth":              "PGREQUIREAUTH",
	"requirepeer":               "PGREQUIREPEER",
	"requiressl":                "PGREQUIRESSL",
	"scram_client_key":          "",
	"scram_server_key":          "",
	"service":                   "PGSERVICE",
	"servicefile":               "PGSERVICEFILE",
	"ssl_max_protocol_version":  "PGSSLMAXPROTOCOLVERSION",
	"ssl_min_protocol_version":  "PGSSLMINPROTOCOLVERSION",
	"sslcert":                   "PGSSLCERT",
	"sslcertmode":               "PGSSLCERTMODE",
	"sslcompression":            "PGSSLCOMPRESSION",
	"sslcrl":                    "PGSSLCRL",
	"sslcrldir":                 "PGSSLCRLDIR",
	"sslkey":                    "PGSSLKEY",
	"sslkeylogfile":             "",
	"sslmode":                   "PGSSLMODE",
	"sslnegotiation":            "PGSSLNEGOTIATION",
	"sslpassword":               "",
	"sslrootcert":               "PGSSLROOTCERT",
	"sslsni":                    "PGSSLSNI",
	"target_session_attrs":      "PGTARGETSESSIONATTRS",
	"tcp_user_timeout":          "",
	"tty":                       "",
	"user":                      "PGUSER",

	"binary_parameters":              "", // lib/pq
	"disable_prepared_binary_result": "", // lib/pq
	"sslinline":                      "", // lib/pq
	"ssl":                            "", // JDBC, SQLAlchemy, node-postgres
	"sslaccept":                      "", // Prisma
}

// otherNames are names that other clients use for a parameter.
var otherNames = map[string]string{
	"database": "dbname",      // lib/pq
	"sslca":    "sslrootcert", // sqlx
}

// byPlainName finds a keyword by its name in lower case without "_" and "-": JDBC writes channelBinding, sqlx ssl-mode. A
// demand for encryption must not be lost because of the spelling.
var byPlainName = func() map[string]string {
	names := map[string]string{}
	for keyword := range keywords {
		names[plain(keyword)] = keyword
	}
	for other, keyword := range otherNames {
		names[plain(other)] = keyword
	}
	return names
}()

func plain(name string) string {
	return strings.ReplaceAll(strings.ReplaceAll(strings.ToLower(name), "_", ""), "-", "")
}

func isKeyword(name string) bool { return byPlainName[plain(name)] != "" }

// serverSettings are settings of the server that are accepted as parameters, as lib/pq and pgx do. libpq has them in
// options only.
var serverSettings = strings.Fields(`backend_flush_after bytea_output client_connection_check_interval client_min_messages
	commit_siblings constraint_exclusion cpu_index_tuple_cost cpu_operator_cost cpu_tuple_cost cursor_tuple_fraction
	deadlock_timeout default_statistics_target default_table_access_method default_tablespace default_toast_compression
	default_transaction_deferrable default_transaction_isolation default_transaction_read_only effective_cache_size
	effective_io_concurrency extra_float_digits from_collapse_limit geqo geqo_threshold gin_pending_list_limit
	hash_mem_multiplier idle_in_transaction_session_timeout idle_session_timeout intervalstyle jit jit_above_cost
	join_collapse_limit lc_messages lc_monetary lc_numeric lc_time lock_timeout log_duration log_min_duration_statement
	log_min_messages log_statement logical_decoding_work_mem maintenance_work_mem max_parallel_maintenance_workers
	max_parallel_workers max_parallel_workers_per_gather parallel_leader_participation parallel_setup_cost
	parallel_tuple_cost plan_cache_mode random_page_cost recursive_worktable_factor role row_security search_path
	seq_page_cost session_preload_libraries session_replication_role statement_timeout synchronous_commit
	tcp_keepalives_count tcp_keepalives_idle tcp_keepalives_interval temp_buffers temp_tablespaces timezone
	track_activities track_io_timing transaction_timeout vacuum_buffer_usage_limit wal_compression work_mem xmloption`)

// serverSetting returns the name of a setting of the server in lower case, in which the server accepts it.
func serverSetting(name string) (string, bool) {
	lower := strings.ToLower(name)
	return lower, slices.Contains(serverSettings, lower) || strings.HasPrefix(lower, "enable_")
}

// value is the text of a parameter and where it comes from, for messages.
type value struct{ text, source string }

// values are the parameters that are set, by keyword.
type values struct {
	keywords map[string]value
	settings map[string]string
	// unknown are names that PostgreSQL does not have; unused are libpq's that have no effect here.
	unknown, unused []string
}

// sortOut decides for each parameter whose it is. The last of several with the same name counts.
func sortOut(pairs []pair) (*values, error) {
	v := &values{keywords: map[string]value{}, settings: map[string]string{}}
	for _, p := range pairs {
		if keyword := byPlainName[plain(p.name)]; keyword != "" {
			if p.value != "" || p.name == keyword {
				v.keywords[keyword] = value{p.value, printable(p.name)}
			}
		} else if name, ok := serverSetting(p.name); ok {
			v.settings[name] = p.value
		} else if strings.EqualFold(p.name, "datestyle") {
			v.unused = append(v.unused, "datestyle") // the driver reads one format only
		} else {
			v.unknown = append(v.unknown, printable(p.name))
		}
	}
	if len(v.keywords) == 0 {
		return nil, errInvalid // not one name of libpq's: another format, such as ADO.NET's Host=...;Port=...
	}
	v.translateSSL()
	return v, nil
}

// translateSSL makes sslmode of ssl, which JDBC, SQLAlchemy and node-postgres have instead: a boolean or a mode.
func (v *values) translateSSL() {
	ssl, given := v.get("ssl")
	if _, hasMode := v.get("sslmode"); !given || hasMode {
		return
	}
	on, err := parseBool(ssl.text)
	switch {
	case err != nil:
		v.keywords["sslmode"] = ssl
	case on:
		v.keywords["sslmode"] = value{"require", ssl.source}
	}
}

// printable returns the name of a parameter for a message. What does not look like a name may be a part of a password.
func printable(name string) string {
	if isName(name) && len(name) <= maxPrinted && (name[0]|0x20) >= 'a' && (name[0]|0x20) <= 'z' {
		return name
	}
	return "(not a name)"
}

// maxPrinted is the length of the longest name that a message quotes.
const maxPrinted = 48

// addEnvironment adds what neither the URL nor the service sets. An empty variable counts as not set.
func (v *values) addEnvironment(env func(string) (string, bool)) {
	for keyword, name := range keywords {
		if _, given := v.get(keyword); given || name == "" {
			continue
		}
		if text, _ := env(name); text != "" {
			v.keywords[keyword] = value{text, name}
		}
	}
	for name, setting := range map[string]string{"PGTZ": "timezone", "PGGEQO": "geqo"} {
		if text, _ := env(name); text != "" && v.settings[setting] == "" {
			v.settings[setting] = text
		}
	}
}

// get returns a parameter; an empty one counts as not set.
func (v *values) get(keyword string) (value, bool) {
	found := v.keywords[keyword]
	return found, found.text != ""
}

// warning names what is not used: parameters, and files that libpq would read.
func (v *values) warning(c Config) string {
	var parts []string
	if names := sorted(v.unknown); len(names) > 0 {
		parts = append(parts, "these are not parameters of PostgreSQL and are ignored: "+strings.Join(names, ", "))
	}
	if names := sorted(v.unused); len(names) > 0 {
		parts = append(parts, "these have no effect here: "+strings.Join(names, ", "))
	}
	if info, err := os.Stat(c.Passfile); c.Password == "" && err == nil && info.Mode().Perm()&0o077 != 0 {
		parts = append(parts, "the password file "+c.Passfile+" is not used, because others may read it (its permissions must be 0600)")
	}
	if crl := filepath.Join(filepath.Dir(c.TLS.DefaultRootCert), "root.crl"); c.TLS.DefaultRootCert != "" && c.TLS.Mode != "disable" {
		if _, err := os.Stat(crl); err == nil {
			parts = append(parts, crl+" is not read: certificate revocation lists are not supported")
		}
	}
	return strings.Join(parts, "; ")
}

func sorted(names []string) []string {
	names = slices.Clone(names)
	slices.Sort(names)
	return slices.Compact(names)
}
