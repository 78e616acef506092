package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"
)

// historySQL records each change of a task that matters, by a trigger of this program. What the checks know of the past comes from here, and
// not from what the programs record themselves.
const historySQL = `
create schema chaos;
create table chaos.history (
	id bigint generated always as identity primary key, at timestamptz not null default clock_timestamp(),
	task_id text, run int, epoch bigint, before text, status text, requests int, unknown int, attempts int, lost int,
	open boolean, call uuid, key text, worker text, code text);
create function chaos.record() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
	if tg_op = 'INSERT' or (old.status, old.run, old.lease_epoch, old.request_call, old.request_open, old.unknown_outcomes, old.attempt_count)
	   is distinct from (new.status, new.run, new.lease_epoch, new.request_call, new.request_open, new.unknown_outcomes, new.attempt_count) then
		insert into chaos.history (task_id, run, epoch, before, status, requests, unknown, attempts, lost, open, call, key, worker, code)
		values (new.task_id, new.run, new.lease_epoch, case when tg_op = 'UPDATE' then old.status end, new.status, new.requests_sent,
			new.unknown_outcomes, new.attempt_count, new.lost_claims, new.request_open, new.request_call, new.request_key, new.leased_by, new.error_code);
	end if;
	return null;
end
$$;
create trigger chaos_history after insert or update on imagetasks.tasks for each row execute function chaos.record();
`

// change is a row of chaos.history.
type change struct {
	at       time.Time
	run      int
	epoch    int64
	before   string // empty: inserted
	status   string
	requests int
	unknown  int
	attempts int
	lost     int
	open     bool
	call     string
	key      string
	code     string
}

func isJSON(text []byte) bool { return len(text) > 0 && json.Valid(text) }

// readHistory returns the changes of each task, in order.
func (s *system) readHistory(ctx context.Context) (map[string][]change, error) {
	rows, err := s.db.QueryContext(ctx, `select task_id, at, run, epoch, coalesce(before, ''), status, requests, unknown, attempts, lost, open,
		coalesce(call::text, ''), coalesce(key, ''), coalesce(code, '') from chaos.history order by id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	history := map[string][]change{}
	for rows.Next() {
		var id string
		var c change
		if err := rows.Scan(&id, &c.at, &c.run, &c.epoch, &c.before, &c.status, &c.requests, &c.unknown, &c.attempts, &c.lost, &c.open,
			&c.call, &c.key, &c.code); err != nil {
			return nil, err
		}
		history[id] = append(history[id], c)
	}
	return history, rows.Err()
}

// dump writes the database and the requests that the API saw to the directory.
func (s *system) dump(ctx context.Context) error {
	s.mu.Lock()
	calls, err := json.MarshalIndent(s.answers, "", " ")
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.dir, "api-requests.json"), calls, 0o644); err != nil {
		return err
	}
	if s.db == nil {
		return nil
	}
	for _, table := range []string{"imagetasks.tasks", "imagetasks.ledger", "imagetasks.credits", "imagetasks.calls", "imagetasks.processors",
		"imagetasks.set_aside", "chaos.history"} {
		if err := s.dumpTable(ctx, table); err != nil {
			return err
		}
	}
	return nil
}

// dumpTable writes the rows of a table to a file, one JSON object a line.
func (s *system) dumpTable(ctx context.Context, table string) error {
	rows, err := s.db.QueryContext(ctx, "select row_to_json(t)::text from "+table+" t")
	if err != nil {
		return err
	}
	defer rows.Close()
	var out bytes.Buffer
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return err
		}
		out.WriteString(line + "\n")
	}
	return errors.Join(rows.Err(), os.WriteFile(filepath.Join(s.dir, table+".jsonl"), out.Bytes(), 0o644))
}
