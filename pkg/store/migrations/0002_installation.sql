-- compatible with: 1
--
-- What is the same on every host that shares the database: the id of the installation, which its pictures' directory has, and the secret
-- from which the names of pictures are computed. Applications have no access to either.

alter table {{.Schema}}.control
    add column installation_id uuid not null default gen_random_uuid(),
    add column picture_secret bytea not null default sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8'));
