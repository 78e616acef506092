package store_test

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"imagetasks/pkg/store"
	"imagetasks/pkg/task"
)

// faultScenario prepares rows and returns the call that uses the statement. The call may be repeated.
type faultScenario func(b *faultBench) faultCall

type faultCall func(ctx context.Context, s *store.Store) (any, error)

const faultUser = "user"

// faultCallID is the id of each call.
var faultCallID = uuid.MustParse("11111111-1111-4111-8111-111111111111")

// tasks grants 100 credits and enqueues a task of 2 credits for each prompt.
func (b *faultBench) tasks(prompts ...string) (ids []string) {
	b.tb.Helper()
	_, err := b.GrantCredits(b.ctx, faultUser, 100, "test", "first")
	require.NoError(b.tb, err)
	for _, prompt := range prompts {
		done, err := b.Enqueue(b.ctx, store.EnqueueRequest{UserID: faultUser, Prompt: prompt, Cost: 2, Key: prompt})
		require.NoError(b.tb, err)
		ids = append(ids, done.TaskIDs...)
	}
	return ids
}

// claimed is tasks that were claimed.
func (b *faultBench) claimed(prompts ...string) (leases []task.Lease) {
	b.tb.Helper()
	b.tasks(prompts...)
	for _, t := range b.claim(len(prompts)) {
		leases = append(leases, t.Lease())
	}
	require.Len(b.tb, leases, len(prompts))
	return leases
}

// failed is tasks that failed and were refunded.
func (b *faultBench) failed(prompts ...string) (ids []string) {
	b.tb.Helper()
	for _, l := range b.claimed(prompts...) {
		_, err := b.Fail(b.ctx, l, errServer, true)
		require.NoError(b.tb, err)
		ids = append(ids, l.TaskID)
	}
	return ids
}

// stuck is tasks that have been processing for an hour.
func (b *faultBench) stuck(prompts ...string) []task.Lease {
	b.tb.Helper()
	leases := b.claimed(prompts...)
	b.exec(`update imagetasks.tasks set processing_started_at = now() - interval '1 hour'`)
	return leases
}

// abandoned is tasks whose lease ran out in the last claim that may be lost.
func (b *faultBench) abandoned(prompts ...string) {
	b.tb.Helper()
	b.claimed(prompts...)
	b.exec(`update imagetasks.tasks set lost_claims = 3`)
	b.expireLeases()
}

// spoil makes the balance of the user one that no refund can be added to.
func (b *faultBench) spoil() {
	b.tb.Helper()
	b.exec(`update imagetasks.credits set credits = 1000000000000000000`)
}

// aside is tasks that are set aside.
func (b *faultBench) aside(prompts ...string) {
	b.tb.Helper()
	for _, id := range b.tasks(prompts...) {
		require.NoError(b.tb, b.PutAside(b.ctx, id))
	}
	b.exec(`update imagetasks.set_aside set since = since - interval '1 hour'`)
}

// old makes all tasks, keys, calls and heartbeats a year old.
func (b *faultBench) old() {
	b.tb.Helper()
	b.exec(`update imagetasks.tasks set created_at = created_at - interval '1 year', updated_at = updated_at - interval '1 year',
		run_after = run_after - interval '1 year', completed_at = completed_at - interval '1 year'`)
	b.exec(`update imagetasks.keys set created_at = created_at - interval '1 year'`)
	b.exec(`update imagetasks.calls set created_at = created_at - interval '1 year'`)
	b.exec(`update imagetasks.processors set beat_at = beat_at - interval '1 year'`)
}

// uncharged is a task that says it was charged, without a charge.
func (b *faultBench) uncharged() string {
	b.tb.Helper()
	b.tasks()
	b.exec(`insert into imagetasks.tasks (task_id, user_id, prompt, status, credits_cost, credits_deducted, completed_at)
		values ('uncharged', $1, 'x', 'failed', 2, 2, now())`, faultUser)
	return "uncharged"
}

// reading is a scenario of a statement that changes nothing.
func reading(prepare func(b *faultBench), call faultCall) faultScenario {
	return func(b *faultBench) faultCall {
		if prepare != nil {
			prepare(b)
		}
		return call
	}
}

func pruning(prepare func(b *faultBench)) faultScenario {
	return func(b *faultBench) faultCall {
		prepare(b)
		b.old()
		return func(ctx context.Context, s *store.Store) (any, error) {
			return s.Prune(ctx, store.PruneConfig{Retention: time.Hour, RedriveWindow: time.Hour, Batch: 10, CallID: faultCallID})
		}
	}
}

// faultScenarios are the scenarios by the name of the statement. "contains: TEXT" is a statement that is not in a file.
func faultScenarios() map[string]faultScenario {
	all := map[string]faultScenario{}
	for _, group := range []map[string]faultScenario{faultLeases(), faultClosing(), faultCredits(), faultControl(), faultStats(), faultTasks(), faultBridge(), faultEvents(), faultFigures(), faultAlerts(), faultOthers()} {
		for name, scenario := range group {
			all[name] = scenario
		}
	}
	return all
}

func faultLeases() map[string]faultScenario {
	held := func(b *faultBench) { // one task may start, two wait for it, and two may start from now on
		err := b.SetLimits(b.ctx, 1, 0)
		require.NoError(b.tb, err)
		b.tasks("a", "b", "c")
		b.exec(`update imagetasks.control set user_concurrency = 2`)
	}
	admitAll := reading(held, func(ctx context.Context, s *store.Store) (any, error) { return nil, s.AdmitAll(ctx) })
	return map[string]faultScenario{
		"claim": reading(func(b *faultBench) { b.tasks("a", "b", "c") }, func(ctx context.Context, s *store.Store) (any, error) {
			tasks, err := s.Claim(ctx, store.ClaimRequest{Worker: "w", Limit: 2, Lease: time.Minute, MaxAttempts: 3, CallID: faultCallID,
				Endpoints: []store.ClaimEndpoint{{Name: "e", Rate: 60_000, Concurrent: 2}}})
			for i := range tasks {
				tasks[i].Waited = 0 // differs from run to run
			}
			return tasks, err
		}),
		"claimable": reading(func(b *faultBench) {
			b.tasks("a", "b")
			b.exec(`update imagetasks.tasks set lease_epoch = 1000000000000000 where prompt = 'a'`)
		}, func(ctx context.Context, s *store.Store) (any, error) {
			tasks, err := s.Claim(ctx, store.ClaimRequest{Worker: "w", Limit: 2, Lease: time.Minute, MaxAttempts: 3})
			return len(tasks), err
		}),
		"has_suspect": reading(func(b *faultBench) { b.abandoned("a") }, func(ctx context.Context, s *store.Store) (any, error) { return s.HasSuspect(ctx, 5) }),
		"begin_requests": func(b *faultBench) faultCall {
			lease := b.claimed("a")[0]
			return func(ctx context.Context, s *store.Store) (any, error) {
				key, _, err := s.BeginRequest(ctx, lease, faultCallID, "e", 60)
				return key, err
			}
		},
		"permit_wait": reading(func(b *faultBench) {}, func(ctx context.Context, s *store.Store) (any, error) {
			return s.PermitWait(ctx, []string{"e"})
		}),
		"save_progress": func(b *faultBench) faultCall {
			lease := b.claimed("a")[0]
			return func(ctx context.Context, s *store.Store) (any, error) {
				return nil, s.SaveProgress(ctx, []store.LeaseRenewal{{Lease: lease, Progress: 40, Stage: "generating"}})
			}
		},
		"recorded_outcomes": func(b *faultBench) faultCall {
			lease := b.claimed("a")[0]
			_, err := b.Release(b.ctx, store.ReleaseRequest{Lease: lease, Cause: errServer})
			require.NoError(b.tb, err)
			return func(ctx context.Context, s *store.Store) (any, error) {
				return s.Release(ctx, store.ReleaseRequest{Lease: lease, Cause: errServer})
			}
		},
		"save_pending": func(b *faultBench) faultCall {
			lease := b.claimed("a")[0]
			_, _, err := b.BeginRequest(b.ctx, lease, faultCallID, "e", 0)
			require.NoError(b.tb, err)
			return func(ctx context.Context, s *store.Store) (any, error) {
				return nil, s.SavePending(ctx, lease, task.PendingResult{Ref: "https://pictures.example/a.png", RequestID: "r", Endpoint: "e"})
			}
		},
		"record_model": func(b *faultBench) faultCall {
			return func(ctx context.Context, s *store.Store) (any, error) {
				return nil, s.RecordModel(ctx, store.Model{Endpoint: "e", Name: "m"})
			}
		},
		"worked_models": reading(func(b *faultBench) {
			require.NoError(b.tb, b.RecordModel(b.ctx, store.Model{Endpoint: "e", Name: "m"}))
		},
			func(ctx context.Context, s *store.Store) (any, error) { return s.WorkedModels(ctx) }),
		"admit":      reading(held, func(ctx context.Context, s *store.Store) (any, error) { return nil, s.Admit(ctx, faultUser) }),
		"held_users": admitAll,
		"inputs": func(b *faultBench) faultCall {
			b.tasks()
			_, err := b.Enqueue(b.ctx, store.EnqueueRequest{UserID: faultUser, Prompt: "a", Cost: 2, Inputs: []task.Input{{URL: "https://pictures.example/a.png"}}})
			require.NoError(b.tb, err)
			lease := b.claim(1)[0].Lease()
			return func(ctx context.Context, s *store.Store) (any, error) { return s.Inputs(ctx, lease) }
		},
		"renew_leases": func(b *faultBench) faultCall {
			leases := b.claimed("a", "b")
			return func(ctx context.Context, s *store.Store) (any, error) {
				held, locked, err := s.RenewLeases(ctx, time.Minute, []store.LeaseRenewal{{Lease: leases[0], Progress: 7, Stage: "s"}, {Lease: leases[1]},
					{Lease: task.Lease{TaskID: "other", Epoch: 1}}})
				return map[string]any{"held": len(held), "locked": locked}, err
			}
		},
		"retry": func(b *faultBench) faultCall {
			lease := b.claimed("a")[0]
			return func(ctx context.Context, s *store.Store) (any, error) {
				return nil, s.Retry(ctx, lease, time.Second, errServer)
			}
		},
		"release": func(b *faultBench) faultCall {
			lease := b.claimed("a")[0]
			require.NoError(b.tb, b.SavePending(b.ctx, lease, task.PendingResult{Ref: "https://pictures.example/a.png"}))
			gone := *errServer
			gone.Gone = true
			return func(ctx context.Context, s *store.Store) (any, error) {
				return s.Release(ctx, store.ReleaseRequest{Lease: lease, Cause: &gone})
			}
		},
	}
}

func faultClosing() map[string]faultScenario {
	complete := func(lease task.Lease) faultCall {
		return func(ctx context.Context, s *store.Store) (any, error) {
			return s.Complete(ctx, store.Completion{Lease: lease, ImageURL: "https://pictures.example/a.png", RequestID: "r", Endpoint: "e"})
		}
	}
	abandoned := func(ctx context.Context, s *store.Store) (any, error) {
		return s.FailAbandoned(ctx, 3, 0, 10, faultCallID)
	}
	sweep := func(requeue bool) faultScenario {
		return reading(func(b *faultBench) { b.stuck("a", "b") }, func(ctx context.Context, s *store.Store) (any, error) {
			refunds, err := s.Sweep(ctx, store.Sweep{OlderThan: time.Minute, Limit: 10, Requeue: requeue, CallID: faultCallID})
			return len(refunds), err
		})
	}
	return map[string]faultScenario{
		"complete": func(b *faultBench) faultCall { return complete(b.claimed("a")[0]) },
		"completed": func(b *faultBench) faultCall {
			call := complete(b.claimed("a")[0])
			_, err := call(b.ctx, b.Store)
			require.NoError(b.tb, err)
			return call
		},
		"fail": func(b *faultBench) faultCall {
			lease := b.claimed("a")[0]
			return func(ctx context.Context, s *store.Store) (any, error) { return s.Fail(ctx, lease, errServer, true) }
		},
		"recorded_failure": func(b *faultBench) faultCall {
			lease := b.claimed("a")[0]
			_, err := b.Fail(b.ctx, lease, errServer, true)
			require.NoError(b.tb, err)
			return func(ctx context.Context, s *store.Store) (any, error) {
				refund, err := s.Fail(ctx, lease, errServer, true)
				refund.Age = 0
				return refund, err
			}
		},
		"abandoned": reading(func(b *faultBench) { b.abandoned("a"); b.spoil() }, abandoned),
		"overdue": reading(func(b *faultBench) { b.tasks("a"); b.old(); b.spoil() }, func(ctx context.Context, s *store.Store) (any, error) {
			return s.FailOverdue(ctx, time.Hour, 10, faultCallID)
		}),
		"set_aside": reading(func(b *faultBench) { b.abandoned("a"); b.spoil() }, abandoned),
		"tasks_aside": reading(func(b *faultBench) { b.aside("a") }, func(ctx context.Context, s *store.Store) (any, error) {
			aside, err := s.TasksAside(ctx, 10)
			return len(aside), err
		}),
		"fail_set_aside": reading(func(b *faultBench) { b.aside("a", "b") }, func(ctx context.Context, s *store.Store) (any, error) {
			refunds, err := s.FailSetAside(ctx, 0, 10, faultCallID)
			return len(refunds), err
		}),
		"cancel": func(b *faultBench) faultCall {
			id := b.tasks("a")[0]
			return func(ctx context.Context, s *store.Store) (any, error) {
				return s.CancelBy(ctx, faultOperation, id, faultUser)
			}
		},
		"redrive": func(b *faultBench) faultCall {
			id := b.failed("a")[0]
			return func(ctx context.Context, s *store.Store) (any, error) { return s.RedriveBy(ctx, faultOperation, id, 1) }
		},
		"recorded_result": func(b *faultBench) faultCall {
			b.abandoned("a")
			_, err := abandoned(b.ctx, b.Store)
			require.NoError(b.tb, err)
			return abandoned
		},
		"fail_abandoned": reading(func(b *faultBench) { b.abandoned("a", "b") }, func(ctx context.Context, s *store.Store) (any, error) {
			refunds, err := s.FailAbandoned(ctx, 3, 0, 10, faultCallID)
			return len(refunds), err
		}),
		"fail_overdue": reading(func(b *faultBench) { b.tasks("a"); b.old() }, func(ctx context.Context, s *store.Store) (any, error) {
			return s.FailOverdue(ctx, time.Hour, 10, faultCallID)
		}),
		"count_overdue": reading(func(b *faultBench) { b.tasks("a"); b.old() }, func(ctx context.Context, s *store.Store) (any, error) {
			return s.CountOverdue(ctx, time.Hour)
		}),
		"sweep":   sweep(false),
		"requeue": sweep(true),
		"stuck": reading(func(b *faultBench) { b.stuck("a") }, func(ctx context.Context, s *store.Store) (any, error) {
			return s.Stuck(ctx, store.Sweep{OlderThan: time.Minute, Limit: 10})
		}),
		"stuck_ids": reading(func(b *faultBench) { b.stuck("a", "b") }, func(ctx context.Context, s *store.Store) (any, error) {
			ids, err := s.StuckIDs(ctx, store.Sweep{OlderThan: time.Minute, Limit: 10})
			return len(ids), err
		}),
		"count_stuck": reading(func(b *faultBench) { b.stuck("a", "b") }, func(ctx context.Context, s *store.Store) (any, error) {
			return s.CountStuck(ctx, store.Sweep{OlderThan: time.Minute})
		}),
		"repair_refunds": reading(func(b *faultBench) { b.tasks("a"); b.exec(`update imagetasks.tasks set status = 'failed'`) },
			func(ctx context.Context, s *store.Store) (any, error) { return s.RepairRefunds(ctx, 10, faultCallID) }),
		"resolve": reading(func(b *faultBench) { b.uncharged() }, resolveUncharged),
		"resolved": reading(func(b *faultBench) {
			b.uncharged()
			_, err := resolveUncharged(b.ctx, b.Store)
			require.NoError(b.tb, err)
		}, resolveUncharged),
	}
}

func resolveUncharged(ctx context.Context, s *store.Store) (any, error) {
	user, balance, err := s.Resolve(ctx, "uncharged", 2, "paid by card")
	return map[string]any{"user": user, "balance": balance}, err
}

func faultCredits() map[string]faultScenario {
	charged := func(b *faultBench) { b.tasks("a", "b") }
	return map[string]faultScenario{
		"enqueue": reading(func(b *faultBench) { b.tasks() }, func(ctx context.Context, s *store.Store) (any, error) {
			return s.Enqueue(ctx, store.EnqueueRequest{UserID: faultUser, Prompt: "a", Cost: 3, Key: "k"})
		}),
		"grant_credits": reading(func(b *faultBench) { b.tasks() }, func(ctx context.Context, s *store.Store) (any, error) {
			return s.GrantCreditsBy(ctx, faultOperation, faultUser, 10, "bought", "k")
		}),
		"balance": reading(charged, func(ctx context.Context, s *store.Store) (any, error) { return s.Balance(ctx, faultUser) }),
		"ledger":  reading(charged, func(ctx context.Context, s *store.Store) (any, error) { return s.Ledger(ctx, faultUser, 10) }),
	}
}

// bridged is a small application whose job failed here: its end is owed.
func (b *faultBench) bridged(owed bool) {
	b.tb.Helper()
	b.exec(`do $$
		declare f regprocedure;
		begin
			drop table if exists public.jobs, public.wallets, public.gallery cascade;
			for f in select oid from pg_proc where pronamespace = 'imagetasks'::regnamespace and proname like 'app\_%' loop
				execute 'drop function ' || f;
			end loop;
			truncate imagetasks.bridge, imagetasks.inbox, imagetasks.outbox, imagetasks.bridged_users, imagetasks.bridge_writes,
				imagetasks.bridge_explained, imagetasks.bridge_failures, imagetasks.lost_updates;
		end $$`)
	b.exec(bridgeSQL)
	b.exec(`insert into public.wallets values ('ann', 9); insert into public.jobs (id, owner, prompt) values ('job', 'ann', 'a cat')`)
	if !owed {
		return
	}
	_, err := b.SyncBridge(b.ctx, 10)
	require.NoError(b.tb, err)
	held := b.claim(1)
	require.Len(b.tb, held, 1)
	_, err = b.Fail(b.ctx, held[0].Lease(), errServer, true)
	require.NoError(b.tb, err)
}

func faultBridge() map[string]faultScenario {
	owed := func(b *faultBench) { b.bridged(true) }
	return map[string]faultScenario{
		// A call that is repeated takes what is left; the rows are taken once.
		"bridge_sync": reading(func(b *faultBench) { b.bridged(false) }, func(ctx context.Context, s *store.Store) (any, error) {
			done, err := s.SyncBridge(ctx, 10)
			return done.Active, err
		}),
		"bridge_due": reading(owed, func(ctx context.Context, s *store.Store) (any, error) { return s.BridgeDue(ctx, 10) }),
		// The second call finds nothing to do.
		"bridge_apply": reading(owed, func(ctx context.Context, s *store.Store) (any, error) {
			done, err := s.ApplyToBridge(ctx, "job")
			return done.Result == store.BridgeApplied || done.Result == store.BridgeNone, err
		}),
		"bridge_progress": reading(func(b *faultBench) { b.bridged(false) }, func(ctx context.Context, s *store.Store) (any, error) {
			return s.WriteBridgeProgress(ctx, store.BridgeProgress{TaskID: "job", Stage: "generating"})
		}),
		"bridge_reconcile": reading(func(b *faultBench) { b.bridged(false) }, func(ctx context.Context, s *store.Store) (any, error) { return s.ReconcileBridge(ctx) }),
		"bridge_state": reading(owed, func(ctx context.Context, s *store.Store) (any, error) {
			state, err := s.Bridge(ctx)
			return state.Owed, err
		}),
		"bridge_problems": reading(owed, func(ctx context.Context, s *store.Store) (any, error) { return s.BridgeProblems(ctx, 10) }),
		"bridge_check":    reading(owed, func(ctx context.Context, s *store.Store) (any, error) { return s.CheckBridge(ctx) }),
		"acknowledge_lost_updates": reading(func(b *faultBench) { b.bridged(false) }, func(ctx context.Context, s *store.Store) (any, error) {
			return nil, s.AcknowledgeLostUpdates(ctx, 1)
		}),
		"owe_refunds": reading(func(b *faultBench) { b.bridged(true); b.exec(`delete from imagetasks.outbox`) },
			func(ctx context.Context, s *store.Store) (any, error) {
				_, err := s.OweRefunds(ctx, 10)
				return nil, err
			}),
	}
}

// faultOperation is that of calls for an operator.
var faultOperation = store.Operation{ID: faultCallID, Who: "me"}

func faultControl() map[string]faultScenario {
	beat := func(ctx context.Context, s *store.Store) (any, error) {
		return nil, s.RecordHeartbeat(ctx, store.Processor{Worker: "w", Host: "h", PID: 7, Version: "1", Report: json.RawMessage(`{"a": 1}`), Capacity: 3})
	}
	running := func(b *faultBench) {
		_, err := beat(b.ctx, b.Store)
		require.NoError(b.tb, err)
	}
	paused := func(b *faultBench) {
		_, err := b.Pause(b.ctx, "first", "backup")
		require.NoError(b.tb, err)
	}
	return map[string]faultScenario{
		"installation": reading(nil, func(ctx context.Context, s *store.Store) (any, error) {
			i, err := s.Installation(ctx)
			return len(i.Secret), err
		}),
		"picture_tasks": func(b *faultBench) faultCall {
			ids := b.tasks("a", "b")
			return func(ctx context.Context, s *store.Store) (any, error) {
				tasks, err := s.PictureTasks(ctx, ids, time.Hour)
				return len(tasks), err
			}
		},
		"move_pictures": func(b *faultBench) faultCall {
			ids := b.tasks("a", "b")
			b.exec(`update imagetasks.tasks set status = 'completed', completed_at = now(), image_url = 'https://old.example/p/' || task_id || '.png'`)
			return func(ctx context.Context, s *store.Store) (any, error) {
				return s.MovePictures(ctx, []store.MovedPicture{{TaskID: ids[0], Name: ids[0] + ".png", URL: "https://new.example/" + ids[0] + ".png"}})
			}
		},
		"record_heartbeat": reading(nil, beat),
		"deregister":       reading(running, func(ctx context.Context, s *store.Store) (any, error) { return nil, s.Deregister(ctx, "w") }),
		"processors": reading(running, func(ctx context.Context, s *store.Store) (any, error) {
			processors, err := s.Processors(ctx)
			return len(processors), err
		}),
		"control": reading(paused, func(ctx context.Context, s *store.Store) (any, error) { return s.Control(ctx) }),
		"pause": reading(nil, func(ctx context.Context, s *store.Store) (any, error) {
			return s.PauseBy(ctx, faultOperation, "backup")
		}),
		"resume": reading(paused, func(ctx context.Context, s *store.Store) (any, error) { return nil, s.ResumeBy(ctx, faultOperation) }),
		"pause_scope": reading(paused, func(ctx context.Context, s *store.Store) (any, error) {
			c, err := s.PauseScope(ctx, faultOperation, store.ScopeModel, "m", "slow")
			return len(c.Scopes), err
		}),
		"resume_scope": reading(func(b *faultBench) {
			_, err := b.PauseScope(b.ctx, store.By("first"), store.ScopeModel, "m", "slow")
			require.NoError(b.tb, err)
		}, func(ctx context.Context, s *store.Store) (any, error) {
			return s.ResumeScope(ctx, faultOperation, store.ScopeModel, "m")
		}),
		"note_operation": reading(nil, func(ctx context.Context, s *store.Store) (any, error) {
			return nil, s.NoteOperation(ctx, faultOperation, store.OperationEntry{What: "fix-stuck", Result: "begun"})
		}),
		"operations": reading(paused, func(ctx context.Context, s *store.Store) (any, error) {
			entries, err := s.Operations(ctx, 10)
			return len(entries), err
		}),
		"set_limits": reading(func(b *faultBench) { b.tasks("a", "b") }, func(ctx context.Context, s *store.Store) (any, error) {
			return nil, s.SetLimits(ctx, 1, 10)
		}),
		"prune_tasks": pruning(func(b *faultBench) {
			b.failed("a", "b")
			b.exec("delete from imagetasks.keys")
		}),
		"prune_inputs": pruning(func(b *faultBench) {
			_, err := b.Enqueue(b.ctx, store.EnqueueRequest{UserID: faultUser, Prompt: "a", Inputs: []task.Input{{URL: "https://pictures.example/a.png"}}})
			require.NoError(b.tb, err)
			_, err = b.Fail(b.ctx, b.claim(1)[0].Lease(), errServer, true)
			require.NoError(b.tb, err)
			b.exec("delete from imagetasks.keys; delete from imagetasks.calls")
			// It is kept: it says that it was charged, without a charge.
			b.exec(`update imagetasks.tasks set credits_deducted = 1`)
		}),
		"prunable": reading(func(b *faultBench) { b.tasks("a") }, func(ctx context.Context, s *store.Store) (any, error) {
			return s.Prune(ctx, store.PruneConfig{RedriveWindow: time.Hour, Batch: 10})
		}),
		"prune_keys":       pruning(func(b *faultBench) { b.tasks("a") }),
		"prune_calls":      pruning(func(b *faultBench) { b.claimed("a"); b.exec("delete from imagetasks.keys") }),
		"prune_processors": pruning(running),
		"prune_set_aside": pruning(func(b *faultBench) {
			b.aside("a")
			b.exec("delete from imagetasks.keys; update imagetasks.tasks set status = 'cancelled', credits_deducted = 0")
		}),
		"prune_pending": pruning(func(b *faultBench) {
			require.NoError(b.tb, b.SavePending(b.ctx, b.claimed("a")[0], task.PendingResult{Ref: "https://pictures.example/a.png"}))
			b.exec("update imagetasks.tasks set status = 'cancelled', credits_deducted = 0; update imagetasks.pending_results set saved_at = now() - interval '1 hour'")
			b.exec("delete from imagetasks.keys; delete from imagetasks.calls")
		}),
		"recorded_count": func(b *faultBench) faultCall {
			b.tasks("a")
			b.old()
			prune := func(ctx context.Context, s *store.Store) (any, error) {
				return s.PruneKeys(ctx, time.Hour, 10, faultCallID)
			}
			_, err := prune(b.ctx, b.Store)
			require.NoError(b.tb, err)
			return prune
		},
	}
}

func faultStats() map[string]faultScenario {
	some := func(b *faultBench) { b.failed("a"); b.exec("delete from imagetasks.calls"); b.more("b") }
	byDay := func(ctx context.Context, s *store.Store) (any, error) {
		return s.Report(ctx, store.ReportRequest{By: store.ByDay, Zone: time.UTC, Limit: 10})
	}
	return map[string]faultScenario{
		"next_due": reading(some, func(ctx context.Context, s *store.Store) (any, error) {
			wait, found, err := s.NextDue(ctx, true)
			return found && wait <= 0, err
		}),
		"has_pending_for": reading(some, func(ctx context.Context, s *store.Store) (any, error) {
			return s.HasPendingFor(ctx, []store.ClaimEndpoint{{Name: "e", Skip: []string{"a"}}})
		}),
		"has_pending": reading(some, func(ctx context.Context, s *store.Store) (any, error) { return s.HasPending(ctx) }),
		"queue_stats": reading(some, func(ctx context.Context, s *store.Store) (any, error) { return s.QueueStats(ctx, time.Minute) }),
		"count_by_state": reading(some, func(ctx context.Context, s *store.Store) (any, error) {
			return s.CountByState(ctx)
		}),
		"closed_within":   reading(some, func(ctx context.Context, s *store.Store) (any, error) { return s.ClosedWithin(ctx, time.Hour) }),
		"failures_within": reading(some, func(ctx context.Context, s *store.Store) (any, error) { return s.FailuresWithin(ctx, time.Hour) }),
		"refunds_today": reading(some, func(ctx context.Context, s *store.Store) (any, error) {
			n, credits, err := s.RefundsToday(ctx)
			return map[string]any{"n": n, "credits": credits}, err
		}),
		"results_within": reading(some, func(ctx context.Context, s *store.Store) (any, error) { return s.ResultsWithin(ctx, time.Hour) }),
		"report_since":   reading(some, byDay),
		"report":         reading(some, byDay),
	}
}

// more enqueues further tasks.
func (b *faultBench) more(prompt string) {
	b.tb.Helper()
	_, err := b.Enqueue(b.ctx, store.EnqueueRequest{UserID: faultUser, Prompt: prompt, Cost: 2, Key: prompt})
	require.NoError(b.tb, err)
}

func faultTasks() map[string]faultScenario {
	one := func(call func(ctx context.Context, s *store.Store, id string) (any, error)) faultScenario {
		return func(b *faultBench) faultCall {
			id := b.failed("a")[0]
			return func(ctx context.Context, s *store.Store) (any, error) { return call(ctx, s, id) }
		}
	}
	details := one(func(ctx context.Context, s *store.Store, id string) (any, error) { return s.TaskDetails(ctx, id) })
	deleteContent := func(ctx context.Context, s *store.Store) (any, error) {
		cancelled, forgotten, err := s.DeleteUserContent(ctx, faultUser)
		return []any{cancelled, forgotten}, err
	}
	return map[string]faultScenario{
		"task":         one(func(ctx context.Context, s *store.Store, id string) (any, error) { return s.Task(ctx, id) }),
		"task_details": details,
		"task_ledger":  details,
		"task_results": details,
		"list_tasks": reading(func(b *faultBench) { b.tasks("a") }, func(ctx context.Context, s *store.Store) (any, error) {
			return s.ListTasks(ctx, store.TaskFilter{Limit: 10})
		}),
		"live_tasks_of": reading(func(b *faultBench) { b.tasks("a") }, deleteContent),
		"forget":        reading(func(b *faultBench) { b.failed("a") }, deleteContent),
		"forgotten": reading(func(b *faultBench) {
			b.failed("a")
			_, err := deleteContent(b.ctx, b.Store)
			require.NoError(b.tb, err)
		}, deleteContent),
		"unsettled": reading(func(b *faultBench) { b.uncharged() }, func(ctx context.Context, s *store.Store) (any, error) {
			return s.Unsettled(ctx, time.Hour, 10)
		}),
	}
}

// faultOthers are the audits and the statements that are not in a file.
func faultOthers() map[string]faultScenario {
	all := map[string]faultScenario{}
	for _, rule := range []string{"duplicate_charge_or_refund", "refund_without_charge", "refund_without_failure", "missing_refund", "missing_charge",
		"task_columns_mismatch", "balance_mismatch", "broken_ledger_chain"} {
		all["audit: "+rule] = reading(func(b *faultBench) { b.uncharged() }, func(ctx context.Context, s *store.Store) (any, error) { return s.Audit(ctx) })
	}
	for _, text := range []string{"pg_is_in_recovery()", "has_function_privilege", "row_security_active", "compatible_with"} {
		all["contains: "+text] = reading(nil, func(ctx context.Context, s *store.Store) (any, error) { return nil, s.CheckAccess(ctx) })
	}
	all["contains: select 1"] = reading(nil, func(ctx context.Context, s *store.Store) (any, error) { return nil, s.Ping(ctx) })
	return all
}
