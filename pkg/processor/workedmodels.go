package processor

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"imagetasks/pkg/store"
)

// workedModels are the models that have made a result at an endpoint: the tasks of one that is refused later wait, because it may work again.
// It is safe for concurrent use.
type workedModels struct {
	queue        Queue
	endpoints    []Endpoint
	defaultModel string
	log          logrus.FieldLogger
	news         chan struct{} // holds one: there is something to record

	mu       sync.Mutex
	loaded   bool
	worked   map[store.Model]bool
	unsaved  []store.Model
	reported bool // an error was logged
}

func newWorkedModels(conf *Config, queue Queue) *workedModels {
	return &workedModels{queue: queue, endpoints: conf.Endpoints, defaultModel: conf.DefaultModel, log: conf.Log, news: make(chan struct{}, 1),
		worked: map[store.Model]bool{}}
}

// mayWork reports whether the tasks of a model that is refused wait: it is the default, it has worked, or that can't be read.
func (w *workedModels) mayWork(endpoint, name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return name == w.defaultModel || !w.loaded || w.worked[store.Model{Endpoint: endpoint, Name: name}]
}

// maxWorkedModels bounds the models that are known to have worked: a relay may take any name that users think of.
const maxWorkedModels = 10000

// completed records that a model made a result. It does not wait for the database.
func (w *workedModels) completed(endpoint, name string) {
	m := store.Model{Endpoint: endpoint, Name: name}
	w.mu.Lock()
	defer w.mu.Unlock()
	if name == "" || w.worked[m] || len(w.worked) >= maxWorkedModels {
		return
	}
	w.worked[m] = true
	w.unsaved = append(w.unsaved, m)
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// The bounds of the calls of the database.
const (
	modelsTimeout   = 5 * time.Second
	modelsLastWrite = time.Second // at a stop, which must not wait long for it
	modelsWait      = 30 * time.Second
)

// load reads the models that worked before.
func (w *workedModels) load(ctx context.Context) {
	models, err := boundedBy(ctx, modelsTimeout, w.queue.WorkedModels)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.report(ctx, "the models that worked before could not be read; tasks of a model that is refused wait until they are", err)
		return
	}
	w.loaded = true
	for _, m := range models {
		for _, e := range w.endpoints {
			if m.Endpoint == e.Name || m.Endpoint == e.Address {
				known := store.Model{Endpoint: e.Name, Name: m.Name}
				w.worked[known] = true
				w.unsaved = slices.DeleteFunc(w.unsaved, func(m store.Model) bool { return m == known })
			}
		}
	}
}

// report logs the first error. w.mu is held.
func (w *workedModels) report(ctx context.Context, what string, err error) {
	if !w.reported && ctx.Err() == nil {
		w.reported = true
		w.log.WithError(err).Warn(what)
	}
}

// run records models that work until ctx ends, and then what is left.
func (w *workedModels) run(ctx context.Context) {
	tick := time.NewTicker(modelsWait)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), modelsLastWrite)
			defer cancel()
			w.save(last)
			return
		case <-w.news:
		case <-tick.C:
			w.mu.Lock()
			loaded := w.loaded
			w.mu.Unlock()
			if !loaded {
				w.load(ctx)
			}
		}
		w.save(ctx)
	}
}

func (w *workedModels) save(ctx context.Context) {
	for {
		w.mu.Lock()
		if len(w.unsaved) == 0 {
			w.mu.Unlock()
			return
		}
		next := w.unsaved[0]
		w.mu.Unlock()
		_, err := boundedBy(ctx, modelsTimeout, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, w.queue.RecordModel(ctx, next)
		})
		w.mu.Lock()
		if err != nil {
			w.report(ctx, "a model that works could not be recorded", err)
			w.mu.Unlock()
			return
		}
		w.unsaved = slices.DeleteFunc(w.unsaved, func(m store.Model) bool { return m == next })
		w.mu.Unlock()
	}
}
