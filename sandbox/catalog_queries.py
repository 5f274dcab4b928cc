"""What PostgreSQL's catalogs say about a schema, as queries for `sandbox.compare`.

They are meant for an empty search_path, where names are printed with their schema.
"""

SET_LOCAL = (
    "SELECT set_config(name, value, true) FROM unnest($1::text[], $2::text[]) AS setting (name, value)"
)

SCHEMA = "SELECT oid FROM pg_namespace WHERE nspname = $1"

# Each query takes the schema's oid and gives rows of a key and a definition.
_RELATIONS = """
    SELECT CASE relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'f' THEN 'foreign table'
                        WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' ELSE 'composite type'
           END AS kind,
           relname AS relation,
           '' AS name,
           concat_ws(' ',
               CASE relpersistence WHEN 'u' THEN 'unlogged' END,
               'partitioned by ' || pg_get_partkeydef(oid),
               'child of ' || (SELECT string_agg(inhparent::regclass::text, ', ' ORDER BY inhseqno)
                                 FROM pg_inherits WHERE inhrelid = pg_class.oid),
               pg_get_expr(relpartbound, oid),
               'with ' || reloptions::text,
               CASE WHEN relrowsecurity THEN 'row security' END,
               CASE WHEN relforcerowsecurity THEN 'forced row security' END,
               CASE relreplident WHEN 'f' THEN 'replica identity full'
                                 WHEN 'n' THEN 'no replica identity' END,
               CASE WHEN relkind IN ('v', 'm') THEN pg_get_viewdef(oid) END) AS definition
      FROM pg_class
     WHERE relnamespace = $1 AND relkind IN ('r', 'p', 'f', 'v', 'm', 'c')
"""
_COLUMNS = """
    SELECT 'column' AS kind, relname AS relation, attname AS name,
           concat_ws(' ',
               format_type(atttypid, atttypmod),
               CASE WHEN attcollation <> typcollation THEN 'collate ' || attcollation::regcollation END,
               CASE WHEN attnotnull THEN 'not null' END,
               CASE attidentity WHEN 'a' THEN 'identity always' WHEN 'd' THEN 'identity by default' END,
               CASE WHEN attgenerated = '' THEN 'default ' ELSE 'generated ' END
                   || pg_get_expr(adbin, adrelid),
               CASE WHEN attstorage <> typstorage THEN 'storage ' || attstorage::text END,
               'compression ' || nullif(attcompression, '')::text,
               'with ' || attoptions::text) AS definition
      FROM pg_attribute
      JOIN pg_class ON pg_class.oid = attrelid
      JOIN pg_type ON pg_type.oid = atttypid
      LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
     WHERE relnamespace = $1 AND relkind IN ('r', 'p', 'f', 'v', 'm', 'c') AND attnum > 0 AND NOT attisdropped
"""
# PostgreSQL 18 lists NOT NULL here, too, which the columns tell; a partition's foreign keys follow.
_CONSTRAINTS = """
    SELECT 'constraint' AS kind, coalesce(relname, typname) AS relation, conname AS name,
           pg_get_constraintdef(con.oid) AS definition
      FROM pg_constraint AS con
      LEFT JOIN pg_class ON pg_class.oid = conrelid
      LEFT JOIN pg_type ON pg_type.oid = contypid
     WHERE connamespace = $1 AND contype <> 'n' AND NOT (contype = 'f' AND conparentid <> 0)
"""
_INDEXES = """
    SELECT 'index' AS kind, pg_class.relname AS relation, self.relname AS name,
           concat_ws(' ',
               pg_get_indexdef(indexrelid),
               'child of ' || (SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = indexrelid),
               CASE WHEN NOT indisvalid THEN 'invalid' END,
               CASE WHEN indisclustered THEN 'clustered' END,
               CASE WHEN indisreplident THEN 'replica identity' END) AS definition
      FROM pg_index
      JOIN pg_class AS self ON self.oid = indexrelid
      JOIN pg_class ON pg_class.oid = indrelid
     WHERE self.relnamespace = $1
"""
_TRIGGERS = """
    SELECT 'trigger' AS kind, relname AS relation, tgname AS name,
           concat_ws(' ', pg_get_triggerdef(pg_trigger.oid),
               CASE tgenabled WHEN 'D' THEN 'disabled' WHEN 'R' THEN 'on replicas' WHEN 'A' THEN 'always' END
           ) AS definition
      FROM pg_trigger
      JOIN pg_class ON pg_class.oid = tgrelid
     WHERE relnamespace = $1 AND NOT tgisinternal
"""
_RULES = """
    SELECT 'rule' AS kind, relname AS relation, rulename AS name,
           concat_ws(' ', pg_get_ruledef(pg_rewrite.oid),
               CASE ev_enabled WHEN 'D' THEN 'disabled' WHEN 'R' THEN 'on replicas' WHEN 'A' THEN 'always' END
           ) AS definition
      FROM pg_rewrite
      JOIN pg_class ON pg_class.oid = ev_class
     WHERE relnamespace = $1 AND rulename <> '_RETURN'
"""
_POLICIES = """
    SELECT 'policy' AS kind, relname AS relation, polname AS name,
           concat_ws(' ',
               CASE WHEN polpermissive THEN 'permissive' ELSE 'restrictive' END,
               CASE polcmd WHEN '*' THEN 'all' ELSE polcmd::text END,
               'to ' || (SELECT string_agg(CASE role WHEN 0 THEN 'public' ELSE role::regrole::text END, ', ')
                           FROM unnest(polroles) AS role),
               'using ' || pg_get_expr(polqual, polrelid),
               'with check ' || pg_get_expr(polwithcheck, polrelid)) AS definition
      FROM pg_policy
      JOIN pg_class ON pg_class.oid = polrelid
     WHERE relnamespace = $1
"""
_STATISTICS = """
    SELECT 'statistics' AS kind, '' AS relation, stxname AS name,
           concat_ws(' ', pg_get_statisticsobjdef(oid), 'target ' || nullif(stxstattarget, -1)) AS definition
      FROM pg_statistic_ext
     WHERE stxnamespace = $1
"""
_FUNCTIONS = """
    SELECT 'function' AS kind, '' AS relation,
           format('%s(%s)', proname, pg_get_function_identity_arguments(oid)) AS name,
           pg_get_functiondef(oid) AS definition
      FROM pg_proc
     WHERE pronamespace = $1 AND prokind <> 'a'
"""
_AGGREGATES = """
    SELECT 'aggregate' AS kind, '' AS relation,
           format('%s(%s)', proname, pg_get_function_identity_arguments(pg_proc.oid)) AS name,
           concat_ws(' ', aggtransfn::regprocedure, aggtranstype::regtype, agginitval,
               nullif(aggfinalfn, 0)::regprocedure, nullif(aggsortop, 0)::regoperator) AS definition
      FROM pg_proc
      JOIN pg_aggregate ON aggfnoid = pg_proc.oid
     WHERE pronamespace = $1
"""
_OPERATORS = """
    SELECT 'operator' AS kind, '' AS relation,
           format('%s (%s, %s)', oprname, oprleft::regtype, oprright::regtype) AS name,
           concat_ws(' ', oprcode::regprocedure, nullif(oprcom, 0)::regoperator,
               nullif(oprnegate, 0)::regoperator, nullif(oprrest, 0)::regproc, nullif(oprjoin, 0)::regproc,
               CASE WHEN oprcanhash THEN 'hashes' END, CASE WHEN oprcanmerge THEN 'merges' END) AS definition
      FROM pg_operator
     WHERE oprnamespace = $1
"""
_ENUMS = """
    SELECT 'enum' AS kind, '' AS relation, typname AS name,
           string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder) AS definition
      FROM pg_type
      LEFT JOIN pg_enum ON enumtypid = pg_type.oid
     WHERE typnamespace = $1 AND typtype = 'e'
     GROUP BY typname
"""
_DOMAINS = """
    SELECT 'domain' AS kind, typname AS relation, '' AS name,
           concat_ws(' ',
               format_type(typbasetype, typtypmod),
               CASE WHEN typcollation <> 0 THEN 'collate ' || typcollation::regcollation END,
               CASE WHEN typnotnull THEN 'not null' END,
               'default ' || typdefault) AS definition
      FROM pg_type
     WHERE typnamespace = $1 AND typtype = 'd'
"""
_RANGES = """
    SELECT 'range' AS kind, '' AS relation, typname AS name,
           concat_ws(' ', rngsubtype::regtype, nullif(rngcollation, 0)::regcollation,
               nullif(rngcanonical, 0)::regproc, nullif(rngsubdiff, 0)::regproc,
               rngmultitypid::regtype) AS definition
      FROM pg_range
      JOIN pg_type ON oid = rngtypid
     WHERE typnamespace = $1
"""
# Built-in objects, below the first normal oid, are thousands and not the tenant's.
_COMMENTS = """
    SELECT 'comment' AS kind, '' AS relation, concat('on ', object.type, ' ', object.identity) AS name,
           description AS definition
      FROM pg_description,
           pg_identify_object(classoid, objoid, objsubid) AS object,
           pg_identify_object_as_address(classoid, objoid, objsubid) AS address
     WHERE objoid >= 16384
       AND (SELECT nspname FROM pg_namespace WHERE oid = $1) IN (object.schema, address.object_names[1])
"""
QUERIES = (
    _RELATIONS, _COLUMNS, _CONSTRAINTS, _INDEXES, _TRIGGERS, _RULES, _POLICIES, _STATISTICS,
    _FUNCTIONS, _AGGREGATES, _OPERATORS, _ENUMS, _DOMAINS, _RANGES, _COMMENTS,
)  # fmt: skip

SEQUENCES = """
    SELECT relname, seqrelid::regclass::text AS qualified,
           format('%s start %s increment %s between %s and %s cache %s%s%s',
               seqtypid::regtype, seqstart, seqincrement, seqmin, seqmax, seqcache,
               CASE WHEN seqcycle THEN ' cycle' END,
               (SELECT format(' owned by %s.%s', refobjid::regclass, attname)
                  FROM pg_depend
                  JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
                 WHERE classid = 'pg_class'::regclass AND objid = seqrelid AND objsubid = 0
                   AND deptype IN ('a', 'i') AND refclassid = 'pg_class'::regclass)) AS parameters
      FROM pg_sequence
      JOIN pg_class ON pg_class.oid = seqrelid
     WHERE relnamespace = $1
"""
SEQUENCE_VALUE = """
    SELECT concat(CASE WHEN is_called THEN 'last value ' ELSE 'next value ' END, last_value) FROM {}
"""
FILLED = """
    SELECT relname, oid::regclass::text AS qualified, relkind = 'r' AS is_table
      FROM pg_class
     WHERE relnamespace = $1 AND relkind IN ('r', 'm') AND relispopulated
"""
# A sum does not depend on the order of the rows, and unlike xor it sees a row that is there twice.
CONTENT = """
    SELECT count(*) AS rows,
           coalesce(sum(hashtextextended((content.*)::text COLLATE pg_catalog."C", 0)), 0) AS hash_sum
      FROM ONLY {} AS content
"""
