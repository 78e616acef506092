package taskprocessor

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"imagetasks/pkg/app/apiclient"
	"imagetasks/pkg/imageapi"
	"imagetasks/pkg/imageworker"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/overview"
	"imagetasks/pkg/processor"
)

// engineEndpoints returns the endpoints as the engine needs them: it knows models by the names that tasks have.
func engineEndpoints(endpoints apiclient.Set) []processor.Endpoint {
	var all []processor.Endpoint
	for _, e := range endpoints {
		all = append(all, processor.Endpoint{Name: e.Name, Address: e.Address(), Models: slices.Sorted(maps.Keys(e.Models)), Preference: e.Preference, Weight: e.Weight,
			Concurrency: e.Concurrency, Rate: e.Rate, Check: func(ctx context.Context, model string) error {
				if model != "" {
					model = e.ModelThere(model)
				}
				return e.Client.Check(ctx, model)
			}})
	}
	return all
}

// workerEndpoints returns the endpoints as the worker needs them. defaultModel is that of tasks that name none.
func workerEndpoints(endpoints apiclient.Set, defaultModel string) imageworker.Endpoints {
	return func(name string) (imageworker.Endpoint, bool) {
		e, ok := endpoints.Named(name)
		if !ok {
			return imageworker.Endpoint{}, false
		}
		return imageworker.Endpoint{Generator: e.Client, Name: e.Name,
			ModelThere: func(model string) string { return e.ModelThere(cmp.Or(model, defaultModel)) },
			Cost: func(model string, o imageapi.Options) (int64, string) {
				return e.Cost(cmp.Or(model, defaultModel), o.Quality)
			}}, true
	}
}

// endpointNames returns the names of the endpoints.
func endpointNames(endpoints apiclient.Set) []string {
	var names []string
	for _, e := range endpoints {
		names = append(names, e.Name)
	}
	return names
}

// modelNames returns the names of the models that the settings name, as tasks name them.
func modelNames(endpoints apiclient.Set, defaultModel string) []string {
	names := []string{defaultModel}
	for _, e := range endpoints {
		names = slices.AppendSeq(names, maps.Keys(e.Models))
	}
	return names
}

// endpointReports returns the state of the endpoints and the routes to them, without secrets.
func (a program) endpointReports(endpoints apiclient.Set) []overview.EndpointReport {
	var all []overview.EndpointReport
	for _, e := range endpoints {
		r := overview.EndpointReport{Name: e.Name, Address: e.Address(), Mode: e.Mode, Models: slices.Sorted(maps.Keys(e.Models)), Preference: e.Preference, Weight: e.Weight,
			Upstreams: e.Upstreams(), APIRateLimits: e.Client.RateLimits()}
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
