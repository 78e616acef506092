package processor_test

import (
	"context"
	"fmt"
	"log"
	"strings"

	"imagetasks/pkg/processor"
	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// shout is a Worker whose paid work is to write a text in capitals.
type shout struct{}

// Work implements processor.Worker.
func (shout) Work(ctx context.Context, t task.Task, c processor.Call) (processor.Result, error) {
	if t.Prompt == "" {
		return processor.Result{}, &task.Error{Code: task.CodeBadRequest, Disposition: task.Fail, Message: "there is no text"}
	}
	// The request is recorded before it is sent. A real API gets the key, so that it bills a repeat only once.
	if _, err := c.BeforeRequest(ctx); err != nil {
		return processor.Result{}, err
	}
	return processor.Result{URL: "data:," + strings.ToUpper(t.Prompt)}, nil
}

func Example() {
	ctx := context.Background()
	// A database with the schema, which "task-processor migrate" or store.Migrate creates.
	if err := server.CreateDatabase(ctx, "example", ""); err != nil {
		log.Fatal(err)
	}
	s, err := store.Open(store.Config{URL: server.URL("example")})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Migrate(ctx, store.Roles{}); err != nil {
		log.Fatal(err)
	}

	if _, err := s.GrantCredits(ctx, "ada", 5, "welcome", "welcome-ada"); err != nil {
		log.Fatal(err)
	}
	made, err := s.Enqueue(ctx, store.EnqueueRequest{UserID: "ada", Prompt: "hello", Cost: 2})
	if err != nil {
		log.Fatal(err)
	}
	p := processor.New(processor.Config{Worker: "example"}, s, shout{})
	if err := p.RunOnce(ctx); err != nil { // Run works tasks until its context ends
		log.Fatal(err)
	}
	row, err := s.Task(ctx, made.TaskIDs[0])
	if err != nil {
		log.Fatal(err)
	}
	balance, err := s.Balance(ctx, "ada")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(row.State, row.ImageURL, "requests:", row.RequestsSent, "credits left:", balance)
	// Output: completed data:,HELLO requests: 1 credits left: 3
}
