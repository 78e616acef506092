package taskprocessor

import (
	"maps"
	"slices"
	"strings"

	"imagetasks/pkg/app/apiclient"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/overview"
)

// endpointReports returns the state of the endpoints and the routes to them, without secrets.
func (a program) endpointReports(endpoints apiclient.Set) []overview.EndpointReport {
	var all []overview.EndpointReport
	for _, e := range endpoints {
		r := overview.EndpointReport{Name: e.Name, Address: e.Address(), Mode: e.Mode, Models: slices.Sorted(maps.Keys(e.Models)), Preference: e.Preference, Weight: e.Weight,
			Concurrency: e.Concurrency, Rate: e.Rate, Upstreams: e.Upstreams(), APIRateLimits: e.Client.RateLimits()}
		for i := range r.Upstreams {
			r.Upstreams[i].Reason = a.Redact.String(r.Upstreams[i].Reason)
		}
		all = append(all, r)
	}
	return all
}

// routes describes the routes to the endpoints, for the log.
func routes(endpoints apiclient.Set) string {
	if len(endpoints) == 1 {
		return "the image API is reached " + endpoints[0].Route().In(lang.EN)
	}
	var all []string
	for _, e := range endpoints {
		all = append(all, e.Name+" is reached "+e.Route().In(lang.EN))
	}
	return strings.Join(all, "; ")
}
