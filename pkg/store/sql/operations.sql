-- The log of what operators did. It is append-only. Statements that act for an operator insert into it themselves, in the same transaction.

-- name: note_operation
-- $1 the id of the operation, $2 who, $3 what, $4 subject, $5 detail, $6 result. A repeat changes nothing. Locks: none. Index: the unique one of operation_id.
with noted as (
    {{operation "$1" "$2" "$3" "$4" "$5" "$6" "(select) given"}}
)
select count(*) from noted;

-- name: operations
-- $1 limit. The newest first. Locks: none. Index: primary key.
select at, who, what, subject, detail, result from {{.Schema}}.operations order by id desc limit $1;
