"""The questions that `services.exporter.facts` asks the catalogue, each once for a whole schema.

$1 is the schema's oid. They begin at what is in the schema, so they stay quick in a database of many
tenants; what an extension owns is left out, since pg_dump leaves it out. Each runs in the snapshot's
transaction, where `search_path` is `pg_catalog`, so that names come out qualified.
"""

# (classid, objid) of what pg_dump -n writes; `of` is the relation that a rule or a default belongs to.
_OWN = """
    contained AS (
        SELECT 'pg_namespace'::regclass AS classid, $1::oid AS objid, nspowner AS owner, nspacl AS acl,
               'n'::"char" AS kind
          FROM pg_namespace WHERE oid = $1::oid
        UNION ALL SELECT 'pg_class'::regclass, oid, relowner, relacl,
                         CASE relkind WHEN 'S' THEN 's'::"char" ELSE 'r'::"char" END
          FROM pg_class WHERE relnamespace = $1::oid AND relkind NOT IN ('i', 'I', 'c')
        UNION ALL SELECT 'pg_proc'::regclass, oid, proowner, proacl, 'f'::"char"
          FROM pg_proc WHERE pronamespace = $1::oid
        UNION ALL SELECT 'pg_type'::regclass, t.oid, typowner, typacl, 'T'::"char"
          FROM pg_type AS t LEFT JOIN pg_class AS c ON c.oid = t.typrelid
         WHERE typnamespace = $1::oid AND typtype <> 'm' AND (c.oid IS NULL OR c.relkind = 'c')
           AND NOT EXISTS (SELECT FROM pg_type AS e WHERE e.oid = t.typelem AND e.typarray = t.oid)
        UNION ALL SELECT 'pg_operator'::regclass, oid, oprowner, NULL, NULL
          FROM pg_operator WHERE oprnamespace = $1::oid
        UNION ALL SELECT 'pg_opclass'::regclass, oid, opcowner, NULL, NULL
          FROM pg_opclass WHERE opcnamespace = $1::oid
        UNION ALL SELECT 'pg_opfamily'::regclass, oid, opfowner, NULL, NULL
          FROM pg_opfamily WHERE opfnamespace = $1::oid
        UNION ALL SELECT 'pg_collation'::regclass, oid, collowner, NULL, NULL
          FROM pg_collation WHERE collnamespace = $1::oid
        UNION ALL SELECT 'pg_conversion'::regclass, oid, conowner, NULL, NULL
          FROM pg_conversion WHERE connamespace = $1::oid
        UNION ALL SELECT 'pg_statistic_ext'::regclass, oid, stxowner, NULL, NULL
          FROM pg_statistic_ext WHERE stxnamespace = $1::oid
        UNION ALL SELECT 'pg_ts_config'::regclass, oid, cfgowner, NULL, NULL
          FROM pg_ts_config WHERE cfgnamespace = $1::oid
        UNION ALL SELECT 'pg_ts_dict'::regclass, oid, dictowner, NULL, NULL
          FROM pg_ts_dict WHERE dictnamespace = $1::oid),
    own AS MATERIALIZED (
        SELECT * FROM contained
         WHERE NOT EXISTS (SELECT FROM pg_depend AS d
                            WHERE d.classid = contained.classid AND d.objid = contained.objid
                              AND d.deptype = 'e'))
"""

# Beside them what hangs on a table: indexes, constraints, defaults, triggers, rules (of views), policies.
_PARTS = """
    parts AS MATERIALIZED (
        SELECT classid, objid, classid AS of_class, objid AS of_object FROM own
        UNION ALL SELECT 'pg_class'::regclass, i.indexrelid, 'pg_class'::regclass, i.indexrelid
          FROM own JOIN pg_index AS i ON own.kind = 'r' AND i.indrelid = own.objid
        UNION ALL SELECT 'pg_constraint'::regclass, oid, 'pg_constraint'::regclass, oid
          FROM pg_constraint WHERE connamespace = $1::oid
        UNION ALL SELECT 'pg_attrdef'::regclass, a.oid, 'pg_class'::regclass, own.objid
          FROM own JOIN pg_attrdef AS a ON own.kind = 'r' AND a.adrelid = own.objid
        UNION ALL SELECT 'pg_trigger'::regclass, t.oid, 'pg_trigger'::regclass, t.oid
          FROM own JOIN pg_trigger AS t ON own.kind = 'r' AND t.tgrelid = own.objid AND NOT t.tgisinternal
        UNION ALL SELECT 'pg_rewrite'::regclass, r.oid, 'pg_class'::regclass, own.objid
          FROM own JOIN pg_rewrite AS r ON own.kind = 'r' AND r.ev_class = own.objid
        UNION ALL SELECT 'pg_policy'::regclass, p.oid, 'pg_policy'::regclass, p.oid
          FROM own JOIN pg_policy AS p ON own.kind = 'r' AND p.polrelid = own.objid)
"""

# An array's or a row's type depends internally on what it is of: that is what is needed.
_NEEDED = """
    needed AS (
        SELECT DISTINCT p.of_class, p.of_object,
               coalesce(i.refclassid, d.refclassid) AS classid, coalesce(i.refobjid, d.refobjid) AS objid
          FROM parts AS p
          JOIN pg_depend AS d ON d.classid = p.classid AND d.objid = p.objid AND d.deptype IN ('n', 'a')
          LEFT JOIN pg_depend AS i ON d.refclassid = 'pg_type'::regclass
                AND i.classid = d.refclassid AND i.objid = d.refobjid AND i.deptype = 'i'
         WHERE d.refclassid <> 'pg_namespace'::regclass
           AND NOT EXISTS (SELECT FROM parts AS o WHERE o.classid = d.refclassid AND o.objid = d.refobjid)),
    outside AS (
        SELECT needed.*, e.refobjid AS extension
          FROM needed
          LEFT JOIN pg_depend AS e ON e.classid = needed.classid AND e.objid = needed.objid
                AND e.deptype = 'e'
         WHERE NOT EXISTS (SELECT FROM parts AS o
                            WHERE o.classid = needed.classid AND o.objid = needed.objid))
"""

EXTENSIONS = f"""
    WITH {_OWN}, {_PARTS}, {_NEEDED}
    SELECT x.extname AS name, n.nspname AS schema_name, x.extversion AS version,
           format('CREATE EXTENSION IF NOT EXISTS %I WITH SCHEMA %I VERSION %L',
                  x.extname, n.nspname, x.extversion) AS sql
      FROM pg_extension AS x JOIN pg_namespace AS n ON n.oid = x.extnamespace
     WHERE x.oid IN (SELECT extension FROM outside)
        OR x.oid IN (SELECT objid FROM outside WHERE classid = 'pg_extension'::regclass)
        OR x.extnamespace = $1::oid
     ORDER BY x.extname
"""

REFERENCES = f"""
    WITH {_OWN}, {_PARTS}, {_NEEDED}
    SELECT DISTINCT format('%s %s → %s %s', f.type, f.identity, t.type, t.identity) AS text
      FROM outside,
           pg_identify_object(of_class, of_object, 0) AS f,
           pg_identify_object(classid, objid, 0) AS t
     WHERE extension IS NULL AND t.type NOT IN ('index', 'table constraint', 'extension')
       AND t.schema IS DISTINCT FROM 'pg_catalog' AND t.schema IS DISTINCT FROM 'information_schema'
       AND objid >= 12000
     ORDER BY text
"""

# A serial's or identity's sequence follows its table; an aggregate and a procedure are routines, too.
_WORD = """
    CASE WHEN type IN ('function', 'procedure', 'aggregate') THEN 'ROUTINE'
         WHEN type = 'statistics object' THEN 'STATISTICS' ELSE upper(type) END
"""

OWNERS = f"""
    WITH {_OWN}
    SELECT format('ALTER %s %s OWNER TO %I', {_WORD}, identity, pg_get_userbyid(owner)) AS sql
      FROM own, pg_identify_object(classid, objid, 0)
     WHERE NOT (own.kind IS NOT DISTINCT FROM 's' AND EXISTS (
               SELECT FROM pg_depend AS d
                WHERE d.classid = 'pg_class'::regclass AND d.objid = own.objid
                  AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')))
     ORDER BY kind IS DISTINCT FROM 'n', type, identity
"""

# What differs from the privileges that an object is born with; column privileges and defaults after them.
GRANTS = f"""
    WITH {_OWN}, acl AS (
        SELECT classid, objid, 0 AS part, acl, acldefault(kind, owner) AS born
          FROM own WHERE kind IS NOT NULL AND acl IS NOT NULL
        UNION ALL
        SELECT classid, objid, a.attnum, a.attacl, NULL
          FROM own JOIN pg_attribute AS a ON own.kind = 'r' AND a.attrelid = own.objid
         WHERE a.attacl IS NOT NULL AND NOT a.attisdropped),
    granted AS (
        SELECT classid, objid, part, x.grantee, x.privilege_type, x.is_grantable
          FROM acl, aclexplode(acl.acl) AS x),
    born AS (
        SELECT classid, objid, part, x.grantee, x.privilege_type, x.is_grantable
          FROM acl, aclexplode(acl.born) AS x),
    change AS (
        SELECT 'REVOKE' AS verb, b.* FROM (SELECT * FROM born EXCEPT SELECT * FROM granted) AS b
        UNION ALL SELECT 'GRANT', g.* FROM (SELECT * FROM granted EXCEPT SELECT * FROM born) AS g)
    SELECT format('%s %s ON %s %s %s %s%s', verb,
                  string_agg(privilege_type || coalesce(' (' || quote_ident(a.attname) || ')', ''), ', '
                             ORDER BY privilege_type),
                  CASE WHEN type IN ('function', 'procedure', 'aggregate') THEN 'ROUTINE'
                       WHEN type IN ('sequence', 'schema', 'type') THEN upper(type) ELSE 'TABLE' END,
                  identity, CASE verb WHEN 'GRANT' THEN 'TO' ELSE 'FROM' END,
                  CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
                  CASE WHEN is_grantable AND verb = 'GRANT' THEN ' WITH GRANT OPTION' ELSE '' END) AS sql
      FROM change CROSS JOIN pg_identify_object(classid, objid, 0)
      LEFT JOIN pg_attribute AS a ON part > 0 AND a.attrelid = objid AND a.attnum = part
     GROUP BY verb, type, identity, part, grantee, is_grantable
     ORDER BY verb DESC, type, identity, part, sql
"""

DEFAULT_GRANTS = """
    SELECT format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %I GRANT %s ON %s TO %s%s',
                  pg_get_userbyid(d.defaclrole), n.nspname,
                  string_agg(x.privilege_type, ', ' ORDER BY x.privilege_type),
                  CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES'
                                       WHEN 'f' THEN 'ROUTINES' ELSE 'TYPES' END,
                  CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END,
                  CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) AS sql
      FROM pg_default_acl AS d JOIN pg_namespace AS n ON n.oid = d.defaclnamespace,
           aclexplode(d.defaclacl) AS x
     WHERE d.defaclnamespace = $1::oid
     GROUP BY d.defaclrole, n.nspname, d.defaclobjtype, x.grantee, x.is_grantable
     ORDER BY sql
"""

NAMES = f"""
    WITH {_OWN}
    SELECT CASE WHEN c.oid IS NOT NULL THEN c.relkind::text
                WHEN p.oid IS NOT NULL THEN 'function' ELSE 'type' END AS kind,
           coalesce(c.relname,
                    p.proname || '(' || coalesce(pg_get_function_identity_arguments(p.oid), '?') || ')',
                    t.typname) AS name
      FROM own
      LEFT JOIN pg_class AS c ON own.classid = 'pg_class'::regclass AND c.oid = own.objid
      LEFT JOIN pg_proc AS p ON own.classid = 'pg_proc'::regclass AND p.oid = own.objid
      LEFT JOIN pg_type AS t ON own.classid = 'pg_type'::regclass AND t.oid = own.objid
     WHERE own.kind <> 'n'
     ORDER BY 2
"""

ROW_SECURITY = """
    SELECT c.relname AS table, c.relforcerowsecurity AS forced,
           (SELECT count(*) FROM pg_policy AS p WHERE p.polrelid = c.oid) AS policies
      FROM pg_class AS c
     WHERE c.relnamespace = $1::oid AND c.relrowsecurity
     ORDER BY c.relname
"""

LARGE_OBJECT_COLUMNS = """
    SELECT c.relname || '.' || a.attname AS name
      FROM pg_class AS c
      JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      JOIN pg_type AS t ON t.oid = a.atttypid
     WHERE c.relnamespace = $1::oid AND c.relkind IN ('r', 'p')
       AND (t.oid = 'oid'::regtype OR t.typname = 'lo')
     ORDER BY 1
"""

LARGE_OBJECTS = "SELECT count(*) FROM pg_largeobject_metadata"

# As JSON, because the columns differ from version to version.
DATABASE = """
    SELECT pg_encoding_to_char(encoding) AS encoding, to_jsonb(d)::text AS rest
      FROM pg_database AS d WHERE datname = current_database()
"""

# What no dump of a schema carries: (code, sentence), for each thing.
_LEFT_BEHIND = """
    SELECT 'publication' AS code,
           format('Table %s is published by %s: add it to the publication again.', c.relname, p.pubname)
      FROM pg_publication_rel AS r JOIN pg_class AS c ON c.oid = r.prrelid
      JOIN pg_publication AS p ON p.oid = r.prpubid
     WHERE c.relnamespace = $1::oid
    UNION ALL
    SELECT 'subscription', format('Table %s is filled by a subscription: make it again.', c.relname)
      FROM pg_subscription_rel AS r JOIN pg_class AS c ON c.oid = r.srrelid
     WHERE c.relnamespace = $1::oid
    UNION ALL
    SELECT 'security_label', format('%s has a security label of %s.', i.identity, l.provider)
      FROM pg_seclabel AS l, pg_identify_object(l.classoid, l.objoid, l.objsubid) AS i
     WHERE i.schema = (SELECT nspname FROM pg_namespace WHERE oid = $1::oid)
        OR (l.classoid = 'pg_namespace'::regclass AND l.objoid = $1::oid)
    UNION ALL
    SELECT DISTINCT 'role_needed',
           format('A policy names role %I: make it before the restore, which stops without it.', r.rolname)
      FROM pg_policy AS p JOIN pg_class AS c ON c.oid = p.polrelid
      JOIN pg_roles AS r ON r.oid = ANY (p.polroles)
     WHERE c.relnamespace = $1::oid
    UNION ALL
    SELECT 'tablespace', format('%s lies in tablespace %I; a restore puts it into the default one.',
                                c.relname, t.spcname)
      FROM pg_class AS c JOIN pg_tablespace AS t ON t.oid = c.reltablespace
     WHERE c.relnamespace = $1::oid
    UNION ALL
    SELECT 'partition_outside', format('%s, a part of table %s, is in another schema: its rows are not here.',
                                       i.inhrelid::regclass, p.relname)
      FROM pg_inherits AS i JOIN pg_class AS p ON p.oid = i.inhparent JOIN pg_class AS c ON c.oid = i.inhrelid
     WHERE p.relnamespace = $1::oid AND p.relkind IN ('r', 'p') AND c.relnamespace <> $1::oid
    UNION ALL
    SELECT 'cast_left_out', format('The cast from %s to %s is of no schema: make it again.',
                                   format_type(k.castsource, NULL), format_type(k.casttarget, NULL))
      FROM pg_cast AS k
      LEFT JOIN pg_type AS s ON s.oid = k.castsource AND s.typnamespace = $1::oid
      LEFT JOIN pg_type AS t ON t.oid = k.casttarget AND t.typnamespace = $1::oid
      LEFT JOIN pg_proc AS f ON f.oid = k.castfunc AND f.pronamespace = $1::oid
     WHERE k.oid >= 12000 AND coalesce(s.oid, t.oid, f.oid) IS NOT NULL
       AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_cast'::regclass
                        AND d.objid = k.oid AND d.deptype IN ('e', 'i'))
"""

_SCHEMA_PUBLICATIONS = """
    UNION ALL
    SELECT 'publication', format('The schema is published by %s: add it to the publication again.', p.pubname)
      FROM pg_publication_namespace AS r JOIN pg_publication AS p ON p.oid = r.pnpubid
     WHERE r.pnnspid = $1::oid
"""


def left_behind(server_major: int) -> str:
    """Schemas can be published since 15."""
    return _LEFT_BEHIND + (_SCHEMA_PUBLICATIONS if server_major >= 15 else "") + " ORDER BY 1, 2"  # noqa: PLR2004
