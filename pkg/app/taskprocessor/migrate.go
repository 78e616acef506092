package taskprocessor

import (
	"context"
	"strings"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
)

func migrateCommand(a program) *cli.Command {
	return &cli.Command{
		Name: "migrate", Usage: "create or update the database schema, and grant roles what they need", Action: a.migrate,
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "plan", Usage: "print the SQL that would run against this database, and change nothing; exits 3 if the schema was changed by hand"},
			&cli.StringSliceFlag{Name: "app-role", Usage: "`ROLE` of the application: it may call the functions and read task_status; may be repeated"},
			&cli.StringSliceFlag{Name: "worker-role", Usage: "`ROLE` of the four programs, where it is not the schema's owner; may be repeated"},
			app.JSONFlag(),
		}, app.CommonFlags()...),
	}
}

func (a program) migrate(c *cli.Context) error {
	roles := store.Roles{App: c.StringSlice("app-role"), Worker: c.StringSlice("worker-role")}
	return a.WithAnySchema(c, func(ctx context.Context, _ settings.Settings, st *store.Store) error {
		if c.Bool("plan") {
			return a.plan(ctx, c, st, roles)
		}
		done, err := st.Migrate(ctx, roles)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return a.PrintJSON(done)
		}
		for _, m := range done.Migrations {
			a.Printf("applied %s\n", m.Name)
		}
		if err := a.printRoles(c, done); err != nil {
			return err
		}
		return a.Print(c, textSchema, done.Schema)
	})
}

// plan prints the SQL that migrate would run. When a step would fail, it prints everything up to it.
func (a program) plan(ctx context.Context, c *cli.Context, st *store.Store, roles store.Roles) error {
	plan, err := st.Plan(ctx, roles)
	if c.Bool("json") {
		if err != nil {
			return err
		}
		if err := a.PrintJSON(plan); err != nil || len(plan.Drift) == 0 {
			return err
		}
		return app.ErrUnhealthy
	}
	for _, step := range plan.Steps {
		a.Printf("-- %s\n%s;\n\n", step.What, strings.TrimSuffix(strings.TrimSpace(step.SQL), ";"))
	}
	if err != nil {
		if len(plan.Steps) > 0 {
			a.Printf("-- The last statement above would fail.\n")
		}
		return err
	}
	if len(plan.Steps) == 0 {
		a.Printf("-- The schema is up to date: there is nothing to do.\n")
	}
	for _, object := range plan.Drift {
		a.Printf("-- Differs from the migrations: %s\n", object)
	}
	if len(plan.Drift) > 0 {
		return app.ErrUnhealthy
	}
	return nil
}

// printRoles prints who was granted what, and what was revoked.
func (a program) printRoles(c *cli.Context, done store.MigrateResult) error {
	for _, role := range done.Revoked {
		if err := a.Print(c, textRevoked, role); err != nil {
			return err
		}
	}
	for _, role := range done.Roles.App {
		if err := a.Print(c, textAppRole, role); err != nil {
			return err
		}
	}
	for _, role := range done.Roles.Worker {
		if err := a.Print(c, textWorkerRole, role); err != nil {
			return err
		}
	}
	if done.Supabase {
		if len(done.Roles.App) == 0 {
			return a.Print(c, textSupabaseNoApp, a.CommandLine(c)(supabaseCommand()))
		}
		return a.Print(c, textSupabase)
	}
	return nil
}
