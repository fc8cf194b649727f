"""The controller itself: version, properties, key-value stores, master passphrase, error reports."""

from __future__ import annotations

from typing import Any

from . import lookup, names, properties, satellites
from .answers import (
    CONTROLLER,
    CREATE,
    CREATED,
    DELETE,
    DELETED,
    ERROR,
    INFO,
    MODIFIED,
    MODIFY,
    WARN,
    Answer,
    Document,
    Refused,
)
from .cluster import Cluster
from .router import Request, route

PROPERTIES = "/v1/controller/properties"
STORES = "/v1/key-value-store"
PASSPHRASE = "/v1/encryption/passphrase"
# Read by the controller alone; a change of any other property is passed on to the satellites, and each deletion.
OWN_KEYS = {
    "MaxOversubscriptionRatio", "MaxFreeCapacityOversubscriptionRatio", "MaxTotalCapacityOversubscriptionRatio",
    "TcpPortAutoRange", "MinorNrAutoRange", "SnapshotShipping/TcpPortRange", "AutoplaceTarget", "SearchDomain",
    "UpdateCacheInterval", "BalanceResourcesEnabled", "BalanceResourcesInterval", "BalanceResourcesGracePeriod",
    "DrbdOptions/AutoEvictAllowEviction", "DrbdOptions/AutoEvictAfterTime", "DrbdOptions/AutoEvictMinReplicaCount",
    "DrbdOptions/AutoEvictMaxDisconnectedNodes", "BackupShipping/AllowForceRestore", "AllowMixingStoragePoolDriver",
    "BackupShipping/MaxConcurrentBackupsPerNode", "StorDriver/Zfs/RollbackStrategy", "StorDriver/Zfs/DeleteStrategy",
    "Linstor/Drbd/auto-block-size", "DrbdProxy/AutoEnable",
}
RANGES = ("TcpPortAutoRange", "MinorNrAutoRange", "SnapshotShipping/TcpPortAutoRange")


@route("GET", "/v1/controller/version")
def version(cluster: Cluster, request: Request) -> Document:
    return Document({
        "version": cluster.version.release, "git_hash": "0" * 40, "build_time": "2025-01-01T00:00:00+00:00",
        "rest_api_version": cluster.version.rest,
    })


@route("GET", "/v1/controller/config")
def config(cluster: Cluster, request: Request) -> Document:
    return Document({
        "config": {"dir": "/srv/linstor/conf/"},
        "debug": {"console_enabled": False},
        "log": {"print_stack_trace": False, "directory": "/srv/linstor/logs", "level": "INFO",
                "rest_access_log_path": "rest-access.log", "rest_access_mode": "NO_LOG"},
        "db": {"connection_url": "jdbc:h2:/srv/linstor/linstordb", "version_check_disabled": False,
               "etcd": {"operations_per_transaction": 128, "prefix": "/LINSTOR/"},
               "k8s": {"request_retries": 3, "max_rollback_entries": 100}},
        "http": {"enabled": True, "listen_address": "127.0.0.1", "port": 3370},
        "https": {"enabled": True, "listen_address": "::", "port": 3371},
        "ldap": {"enabled": False, "public_access_allowed": False, "uri": "ldap://localhost", "dn": "uid={user}"},
    })


@route("GET", PROPERTIES)
def shown(cluster: Cluster, request: Request) -> Document:
    return Document(dict(sorted(cluster.props.items())))


@route("GET", PROPERTIES + "/info")
def rules(cluster: Cluster, request: Request) -> Document:
    return Document(properties.table(cluster.version, "controller"))


@route("POST", PROPERTIES, body="required")
def modify(cluster: Cluster, request: Request) -> Answer:
    """Change controller properties; one key that is not allowed refuses the whole request."""
    body = request.body or {}
    answer = request.answering(CREATE | CONTROLLER, {}, 201)
    override, delete = body.get("override_props") or {}, body.get("delete_props") or []
    for key, value in override.items():
        _check(cluster, key, str(value), CREATE)
    for key in delete:
        _check(cluster, key, None, DELETE)
    pass_on = False
    for key, value in override.items():
        pass_on |= _set(cluster, answer, key, str(value))
    for key in sorted(delete, reverse=True):
        changed = cluster.props.pop(properties.normal(key), None) is not None
        pass_on |= changed
        answer.add(DELETE | DELETED, f"Successfully deleted property '{key}'")
    for space in body.get("delete_namespaces") or []:
        for key in [key for key in cluster.props if key.startswith(properties.normal(space) + "/")]:
            del cluster.props[key]
            pass_on = True
    if pass_on:
        _apply(cluster, answer)
    return answer


def _apply(cluster: Cluster, answer: Answer) -> None:
    """Tell all satellites the properties; each of them looks at all its resources then."""
    for node in cluster.nodes.values():
        if node.online:
            for owner in cluster.resources_on(node.name):
                satellites.look(cluster, answer, owner.definition, node.name)
            answer.add(INFO | MODIFY, f"({node.name}) Controller properties applied")


def _check(cluster: Cluster, key: str, value: Any, operation: int) -> None:
    found = properties.rule(cluster.version, "controller", key)
    if found is None:
        raise Refused(ERROR | operation | 213, f"The key '{key}' is not whitelisted", details="Not allowed here")
    if value is not None and key in RANGES and not properties.value_fits(
            {"prop_type": "regex", "value": r"\d+(-\d+)?"}, value):
        raise Refused(ERROR | operation | 213, f"The value '{value}' is not valid.", details="A range is expected")
    if value is not None and not properties.value_fits(found, value):
        raise Refused(ERROR | operation | 213, f"The value '{value}' is not valid.", details="See the key's rule")


def _set(cluster: Cluster, answer: Answer, key: str, value: str) -> bool:
    changed = cluster.props.get(properties.normal(key)) != value
    cluster.props[properties.normal(key)] = value
    if key == "TcpPortAutoRange":
        answer.add(MODIFY | MODIFIED, f"The TCP port range was successfully updated to: {value}")
    if key == "DrbdOptions/auto-quorum" and cluster.version.has("auto_quorum_deprecated"):
        del cluster.props[key]
        answer.add(WARN | MODIFY | 4000, f"{key} is deprecated, please use DrbdOptions/Resource/quorum")
    answer.add(CREATED, f"Successfully set property '{key}' to value '{value}'")
    own = {*OWN_KEYS, "DrbdOptions/auto-quorum"} if cluster.version.has("auto_quorum_deprecated") else OWN_KEYS
    return changed and key not in own


@route("DELETE", PROPERTIES + "/{key}")
@route("DELETE", PROPERTIES + "/{space}/{key}")
@route("DELETE", PROPERTIES + "/{space}/{subspace}/{key}")
def delete(cluster: Cluster, request: Request) -> Answer:
    params = request.params
    key = "/".join(params[part] for part in ("space", "subspace", "key") if part in params)
    answer = request.answering(DELETE | CONTROLLER)
    if properties.rule(cluster.version, "controller", key) is None:
        raise Refused(ERROR | 213, f"The key '{key}' is not whitelisted")
    # The satellites are told, and nobody waits for them.
    if cluster.props.pop(properties.normal(key), None) is not None:
        _apply(cluster, Answer(MODIFY | CONTROLLER))
    answer.add(DELETED, f"Successfully deleted property '{key}'")
    return answer


@route("GET", STORES)
def stores(cluster: Cluster, request: Request) -> Document:
    return Document([_store(cluster, key) for key in sorted(cluster.stores)])


@route("GET", STORES + "/{instance}")
def store(cluster: Cluster, request: Request) -> Document:
    """Return a list with the one store."""
    name = request.params["instance"]
    if name.upper() not in cluster.stores:
        raise Refused(ERROR | 316, f"Could not find key value store instance '{name}'.", masked=False)
    return Document([_store(cluster, name.upper())])


def _store(cluster: Cluster, key: str) -> dict[str, Any]:
    name, props = cluster.stores[key]
    return {"name": name, "props": dict(sorted(props.items()))}


@route("PUT", STORES + "/{instance}", body="required")
def modify_store(cluster: Cluster, request: Request) -> Answer:
    """Change a store; its last key gone, the store is gone."""
    name, body = request.params["instance"], request.body or {}
    answer = request.answering(MODIFY | CONTROLLER)
    key = names.check(names.STORE_NAME, name, masked=False)
    override = body.get("override_props") or {}
    if any(len("/" + one) > properties.LONGEST_KEY for one in override):
        raise Refused(ERROR | 213, "Invalid key.", masked=False)
    if properties.too_long(override):
        raise Refused(ERROR | 998, "Exception thrown.", masked=False, report=True)
    props = dict(cluster.stores[key][1]) if key in cluster.stores else {}
    properties.change(props, Answer(0), 0, override, body.get("delete_props"), body.get("delete_namespaces"))
    cluster.stores.pop(key, None)
    if props:
        cluster.stores[key] = (name, props)
    answer.add(MODIFIED, "Successfully updated properties")
    return answer


@route("DELETE", STORES + "/{instance}")
def delete_store(cluster: Cluster, request: Request) -> Answer:
    name = request.params["instance"]
    answer = request.answering(0)
    if cluster.stores.pop(name.upper(), None) is None:
        return lookup.nothing(answer, f"Deletion of kvs '{name}' had no effect.")
    answer.add(DELETED, f"Kvs '{name}' deleted.", details="deleted")
    return answer


@route("GET", PASSPHRASE, since=(1, 31))
def passphrase_status(cluster: Cluster, request: Request) -> Document:
    status = "unset" if cluster.passphrase is None else "unlocked" if cluster.unlocked else "locked"
    return Document({"status": status}, content_type="text/plain")


@route("POST", PASSPHRASE, body="required")
def create_passphrase(cluster: Cluster, request: Request) -> Answer:
    answer = request.answering(CREATE | CONTROLLER, {}, 201)
    new = (request.body or {}).get("new_passphrase")
    if new is None:
        raise properties.unhandled("Creation of controller", "NullPointerException")
    if cluster.passphrase is not None:
        raise Refused(ERROR | 512, "Could not create new crypt passphrase as it already exists")
    cluster.passphrase, cluster.unlocked = new, True
    answer.add(CREATED, "Crypt passphrase created.")
    for one in cluster.sorted_definitions():
        satellites.refresh(cluster, answer, one, lambda node, name=one.name: (
            MODIFIED, f"Updated resource definition {name}"))
    return answer


@route("PATCH", PASSPHRASE, body="required")
def enter_passphrase(cluster: Cluster, request: Request) -> Answer:
    """Unlock; the body is a bare JSON string."""
    answer = request.answering(MODIFY | CONTROLLER)
    _compare(cluster, request.body)
    cluster.unlocked = True
    answer.add(4, "Passphrase accepted")
    return answer


@route("PUT", PASSPHRASE, body="required")
def change_passphrase(cluster: Cluster, request: Request) -> Answer:
    body = request.body or {}
    answer = request.answering(MODIFY | CONTROLLER)
    _compare(cluster, body.get("old_passphrase"))
    cluster.passphrase, cluster.unlocked = body.get("new_passphrase"), True
    answer.add(MODIFIED, "Crypt passphrase updated")
    return answer


def _compare(cluster: Cluster, given: Any) -> None:
    if cluster.passphrase is None:
        raise Refused(ERROR | 600, "encrypted namespace is empty, you need to set a passphrase first")
    if given != cluster.passphrase:
        raise Refused(ERROR | 600, "Could not restore master passphrase as the given old passphrase was incorrect")


@route("GET", "/v1/error-reports")
def reports(cluster: Cluster, request: Request) -> Document:
    """List error reports by time; `withContent` adds their text.

    With a limit every source gives its newest so many, and of all these the oldest are shown; the offset is ignored.
    """
    since, nodes, limit = request.number("since"), request.query.get("node", []), request.number("limit")
    by_source: dict[str, list[dict[str, Any]]] = {}
    for one in sorted(cluster.reports, key=lambda report: int(report["error_time"])):
        if one["error_time"] >= since and (not nodes or one["node_name"] in nodes):
            by_source.setdefault(one["node_name"], []).append(one)
    newest = [one for found in by_source.values() for one in found[-limit if limit > 0 else 0:]]
    newest.sort(key=lambda report: int(report["error_time"]))
    text = request.flag("withContent")
    return Document([one if text else {key: value for key, value in one.items() if key != "text"}
                     for one in newest[:limit if limit > 0 else None]])


@route("GET", "/v1/error-reports/{reportid}")
def report(cluster: Cluster, request: Request) -> Document:
    """Return a list with the report, or an empty one: an unknown id is no error."""
    name = f"ErrorReport-{request.params['reportid']}.log"
    return Document([one for one in cluster.reports if one["filename"] == name])


@route("PATCH", "/v1/error-reports", body="required")
def delete_reports(cluster: Cluster, request: Request) -> Answer:
    body = request.body or {}
    answer = request.answering(0)
    old = [one for one in cluster.reports if body.get("since", 0) <= one["error_time"] <= body.get("to", 1 << 62)]
    cluster.reports = [one for one in cluster.reports if one not in old]
    if old:
        answer.add(DELETED, f"Deleted {len(old)} error-report(s)")
    else:
        answer.add(INFO | 10007, "No error reports deleted.")
    return answer


@route("GET", "/v1/sos-report")
def sos_report(cluster: Cluster, request: Request) -> Answer:
    answer = request.answering(0, {"path": "/srv/linstor/logs/sos.tar.gz"}, 201)
    answer.add(CREATED, "SOS Report created on Controller: /srv/linstor/logs/sos.tar.gz")
    return answer
