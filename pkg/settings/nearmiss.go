package settings

import (
	"slices"
	"strings"

	"imagetasks/pkg/suggest"
)

// NearMiss is a name that is nearly a setting's.
type NearMiss struct {
	Name    string // as it was written
	Setting string // that was probably meant
}

// NearMisses returns those of the names of an env file that are no settings and nearly the name of one that the file does not
// set, sorted. Names of other programs that resemble none are left out.
func NearMisses(file map[string]string) []NearMiss {
	known := map[string]bool{}
	var all []string
	for _, s := range List() {
		all = append(all, s.Env)
		known[s.Env] = true
		if strings.HasSuffix(s.Env, "_PROXY") {
			known[strings.ToLower(s.Env)] = true
		}
	}
	// Variables of other programs whose names are close to ours.
	for _, name := range []string{"FTP_PROXY", "ftp_proxy"} {
		known[name] = true
	}
	var out []NearMiss
	for name := range file {
		if known[name] {
			continue
		}
		best, least := "", maxEdits+1
		for _, setting := range all {
			if _, set := file[setting]; set {
				continue
			}
			if d := nameDistance(name, setting); d < least {
				best, least = setting, d
			}
		}
		if best != "" {
			out = append(out, NearMiss{Name: name, Setting: best})
		}
	}
	slices.SortFunc(out, func(a, b NearMiss) int { return strings.Compare(a.Name, b.Name) })
	return out
}

const maxEdits = 2

// nameDistance is the number of edits between two names, in any case and without underscores; a _URL at the end counts as none.
func nameDistance(name, setting string) int {
	plain := func(s string) string { return strings.ReplaceAll(strings.ToUpper(s), "_", "") }
	a, b := plain(name), plain(setting)
	if strings.TrimSuffix(a, "URL") == b {
		return 1
	}
	return suggest.EditDistance(a, b)
}
