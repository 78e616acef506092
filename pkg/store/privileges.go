package store

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/lib/pq"
)

// revokeFromSchema revokes what anybody but the owner may do in the schema: on a new one everything, which default privileges granted; on
// an older one CREATE, with which a role could shadow functions that have the owner's rights.
func (m *migrator) revokeFromSchema(ctx context.Context) error {
	var grantees []string
	err := m.tx.QueryRowContext(ctx, `
		select array(select distinct case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end
		             from pg_namespace n, lateral aclexplode(n.nspacl) a
		             where n.nspname = $1 and a.grantee <> n.nspowner and ($2 or a.privilege_type = 'CREATE') order by 1)`,
		m.result.Schema, m.result.Version == 0).Scan(pq.Array(&grantees))
	if err != nil {
		return wrapMigrate("read the schema's privileges", err)
	}
	for _, grantee := range grantees {
		if grantee != "public" {
			m.result.Revoked = append(m.result.Revoked, grantee)
		}
		privilege := "create"
		if m.result.Version == 0 {
			privilege = "all"
		}
		text := fmt.Sprintf("revoke %s on schema %s from %s", privilege, m.names.Schema, grantee)
		if err := m.step(ctx, "revoke default privileges of "+grantee, text, ""); err != nil {
			return err
		}
	}
	return nil
}

// schemaObject is a table, view, sequence or function of the schema.
type schemaObject struct{ kind, name string }

// objects returns the objects of the schema.
func (m *migrator) objects(ctx context.Context) (map[schemaObject]bool, error) {
	rows, err := m.tx.QueryContext(ctx, `
		select case c.relkind when 'S' then 'sequence' else 'table' end, quote_ident(c.relname)
		from pg_class c join pg_namespace n on n.oid = c.relnamespace
		where n.nspname = $1 and c.relkind in ('r', 'v', 'm', 'S', 'p', 'f')
		union all
		select 'function', quote_ident(p.proname) || '(' || pg_get_function_identity_arguments(p.oid) || ')'
		from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = $1`, m.result.Schema)
	if err != nil {
		return nil, wrapMigrate("list the objects", err)
	}
	defer rows.Close()
	out := map[schemaObject]bool{}
	for rows.Next() {
		var o schemaObject
		if err := rows.Scan(&o.kind, &o.name); err != nil {
			return nil, wrapMigrate("list the objects", err)
		}
		out[o] = true
	}
	return out, wrapMigrate("list the objects", rows.Err())
}

// revokeDefaults revokes what default privileges granted on new objects to anybody but the owner: execute on functions to PUBLIC
// everywhere, and all on everything to anon and authenticated in databases with Supabase's older grants.
func (m *migrator) revokeDefaults(ctx context.Context, before map[schemaObject]bool) error {
	rows, err := m.tx.QueryContext(ctx, `
		with acls as (
			select case c.relkind when 'S' then 'sequence' else 'table' end as kind, quote_ident(c.relname) as name, c.relowner as owner, c.relacl as acl
			from pg_class c join pg_namespace n on n.oid = c.relnamespace
			where n.nspname = $1 and c.relkind in ('r', 'v', 'm', 'S', 'p', 'f')
			union all
			select 'function', quote_ident(p.proname) || '(' || pg_get_function_identity_arguments(p.oid) || ')', p.proowner,
			       coalesce(p.proacl, acldefault('f', p.proowner))
			from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = $1
		)
		select kind, name, case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end
		from acls, lateral (select distinct grantee from aclexplode(acl)) a
		where grantee <> owner order by 1, 3, 2`, m.result.Schema)
	if err != nil {
		return wrapMigrate("read privileges", err)
	}
	defer rows.Close()
	type key struct{ kind, grantee string }
	var keys []key
	granted := map[key][]string{}
	for rows.Next() {
		var o schemaObject
		var grantee string
		if err := rows.Scan(&o.kind, &o.name, &grantee); err != nil {
			return wrapMigrate("read privileges", err)
		}
		if before[o] {
			continue
		}
		k := key{o.kind, grantee}
		if granted[k] == nil {
			keys = append(keys, k)
		}
		granted[k] = append(granted[k], m.names.Schema+"."+o.name)
		if grantee != "public" && !slices.Contains(m.result.Revoked, grantee) {
			m.result.Revoked = append(m.result.Revoked, grantee)
		}
	}
	if err := rows.Err(); err != nil {
		return wrapMigrate("read privileges", err)
	}
	for _, k := range keys {
		text := fmt.Sprintf("revoke all on %s %s from %s", k.kind, strings.Join(granted[k], ",\n    "), k.grantee)
		if err := m.step(ctx, "revoke default privileges of "+k.grantee, text, ""); err != nil {
			return err
		}
	}
	return nil
}

// grantRoles grants the named roles, and those named earlier, what they need.
func (m *migrator) grantRoles(ctx context.Context, roles Roles) error {
	err := m.tx.QueryRowContext(ctx, "select count(*) = 3 from pg_roles where rolname in ('anon', 'authenticated', 'service_role')").Scan(&m.result.Supabase)
	if err != nil {
		return wrapMigrate("look for roles", err)
	}
	app, worker, err := m.earlierRoles(ctx)
	if err != nil {
		return err
	}
	changed := len(m.result.Migrations) > 0
	for _, kind := range []struct {
		kind           string
		named, earlier []string
		objects        []object
		all            *[]string
	}{
		{"app", roles.App, app, appObjects(), &m.result.Roles.App},
		{"worker", roles.Worker, worker, workerObjects(), &m.result.Roles.Worker},
	} {
		*kind.all = append([]string{}, kind.earlier...)
		due := slices.Clone(kind.named)
		if changed {
			due = append(due, kind.earlier...)
		}
		slices.Sort(due)
		for _, role := range slices.Compact(due) {
			if err := m.grantRole(ctx, role, kind.kind, kind.objects); err != nil {
				return err
			}
			if !slices.Contains(*kind.all, role) {
				*kind.all = append(*kind.all, role)
			}
		}
	}
	return nil
}

func (m *migrator) earlierRoles(ctx context.Context) (app, worker []string, err error) {
	rows, err := m.tx.QueryContext(ctx, "select r.role, r.kind from "+m.names.Schema+".roles r join pg_roles p on p.rolname = r.role order by 1")
	if err != nil {
		return nil, nil, wrapMigrate("read the roles", err)
	}
	defer rows.Close()
	for rows.Next() {
		var role, kind string
		if err := rows.Scan(&role, &kind); err != nil {
			return nil, nil, wrapMigrate("read the roles", err)
		}
		if kind == "app" {
			app = append(app, role)
		} else {
			worker = append(worker, role)
		}
	}
	return app, worker, wrapMigrate("read the roles", rows.Err())
}

func (m *migrator) grantRole(ctx context.Context, role, kind string, objects []object) error {
	if slices.Contains([]string{"public", "anon", "authenticated"}, role) {
		return &AccessError{fmt.Sprintf("the role %s is that of every visitor of the application", role), "name the role of your server, for example service_role"}
	}
	hint := fmt.Sprintf("create the role first, for example: create role %s login password '…'", pq.QuoteIdentifier(role))
	for _, text := range grants(m.names, role, objects) {
		if err := m.step(ctx, fmt.Sprintf("grant to the %s role %s", kind, role), text, hint); err != nil {
			return err
		}
	}
	if kind == "worker" {
		if err := m.createPolicies(ctx, role); err != nil {
			return err
		}
	}
	return m.step(ctx, "record the role", fmt.Sprintf("insert into %s.roles (role, kind) values (%s, '%s') on conflict do nothing",
		m.names.Schema, pq.QuoteLiteral(role), kind), "")
}

// createPolicies lets a worker role see and change all rows. A policy that exists is left as it is, because replacing it would wait for
// the table's other users.
func (m *migrator) createPolicies(ctx context.Context, role string) error {
	for _, table := range policyTables() {
		var exists bool
		err := m.tx.QueryRowContext(ctx, "select exists (select from pg_policies where schemaname = $1 and tablename = $2 and policyname = $3)",
			m.result.Schema, table, policyName(role)).Scan(&exists)
		if err != nil {
			return wrapMigrate("look for policies", err)
		}
		if exists {
			continue
		}
		text := fmt.Sprintf("create policy %s on %s.%s to %s using (true) with check (true)", pq.QuoteIdentifier(policyName(role)),
			m.names.Schema, table, pq.QuoteIdentifier(role))
		if err := m.step(ctx, "let the worker role "+role+" see the rows", text, ""); err != nil {
			return err
		}
	}
	return nil
}
