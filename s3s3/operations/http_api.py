"""The JSON API at `/api/v1`, and its OpenAPI description, which is generated from `ENDPOINTS`.

Reading what the status page shows needs no token. Each change, and `explain`, needs `Authorization: Bearer TOKEN` with
the token of `[http]`. A cookie does not count and a change needs a JSON body, so another site cannot forge a request: a
browser sends neither header across sites without asking first, and is never allowed to.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import secrets
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

from aiohttp import web
from pydantic import TypeAdapter, ValidationError
from redis.asyncio import Redis

from .. import __version__
from ..config import Config
from ..errors import ReconcileInProgress, RoutePaused, S3S3Error
from ..model import Secret
from ..monitoring import status_page
from ..monitoring.actions import UnknownTarget
from ..monitoring.status_page import StatusPage
from . import models
from .explain import Explanation
from .service import Reconcile, Service

PREFIX = "/api/v1"

#: Headers of each response, which may contain keys.
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Endpoint(NamedTuple):
    """An operation. The docstring of the method `name` of `Service` describes it."""

    method: str
    path: str
    name: str
    request: type
    response: type
    needs_token: bool


ENDPOINTS = (
    Endpoint("GET", "/status", "status", models.NoParameters, models.Status, False),
    Endpoint("GET", "/routes", "routes", models.NoParameters, models.Routes, False),
    Endpoint("GET", "/jobs", "jobs", models.JobsQuery, models.JobPage, False),
    Endpoint("GET", "/dead-letters", "dead_letters", models.DeadLettersQuery, models.DeadLetterPage, False),
    Endpoint("GET", "/dead-letters/groups", "dead_letter_groups", models.RouteQuery, models.Groups, False),
    Endpoint("GET", "/explain", "explain", models.ExplainQuery, Explanation, True),
    Endpoint("POST", "/dead-letters/retry", "retry", models.DeadLetterSelection, models.Changed, True),
    Endpoint("POST", "/dead-letters/drop", "drop", models.DeadLetterSelection, models.Changed, True),
    Endpoint("POST", "/pause", "pause", models.PauseRequest, models.Done, True),
    Endpoint("POST", "/resume", "resume", models.PauseRequest, models.Done, True),
    Endpoint("POST", "/reconcile", "reconcile", models.ReconcileRequest, models.Done, True),
    Endpoint("POST", "/enqueue", "enqueue", models.EnqueueRequest, models.Enqueued, True),
    Endpoint("POST", "/processes/dismiss", "dismiss", models.DismissRequest, models.Done, True),
)

#: Why a request is refused, by status.
REFUSALS = {
    400: "the parameters or the body are not valid",
    401: "the bearer token is missing or wrong",
    403: "the configuration has no [http] token, or another site sent the request",
    404: "no such route, destination or process",
    409: "the route is paused, or is being reconciled already",
    413: f"the body has more than {status_page.MAX_FORM_BYTES:,} bytes",
    415: "the body is not application/json",
    503: "Redis does not answer",
}


class Api:
    """The API as handlers of an aiohttp application.

    Args:
        token: of `[http]`; None: nothing can be changed.
    """

    def __init__(self, service: Service, token: Secret | None) -> None:
        self._service = service
        self._token = token

    def add_to(self, app: web.Application) -> None:
        """Add the endpoints to an application."""
        for endpoint in ENDPOINTS:
            app.router.add_route(endpoint.method, PREFIX + endpoint.path, self._handler(endpoint))
        app.router.add_get(f"{PREFIX}/openapi.json", self._describe)

        async def close(_: web.Application) -> None:
            await self._service.close()

        app.on_shutdown.append(close)

    async def _describe(self, _: web.Request) -> web.Response:
        return _json(openapi())

    def _handler(self, endpoint: Endpoint) -> Callable[[web.Request], Any]:
        parse: Callable[[Any], Any] = TypeAdapter(endpoint.request).validate_python
        call = getattr(self._service, endpoint.name)

        async def handle(request: web.Request) -> web.Response:
            try:
                if endpoint.needs_token:
                    await self._authorize(request)
                if endpoint.method == "GET":
                    answer = await call(parse(dict(request.query)))
                else:
                    answer = await call(parse(await _body(request)), str(request.remote))
            except (_RefusedError, ValueError, S3S3Error) as error:
                return _refusal(error, changes=endpoint.method == "POST")
            return _json(dataclasses.asdict(answer))

        return handle

    async def _authorize(self, request: web.Request) -> None:
        """Raise _RefusedError unless the request has the token, and is not sent by another site."""
        if self._token is None:
            raise _RefusedError(403, "the configuration has no [http] token, so this is not allowed")
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise _RefusedError(403, "another site sent this request")
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        wanted = self._token.get_secret_value().encode()
        given = token.strip().encode("utf-8", "surrogateescape")
        if scheme.lower() != "bearer" or not secrets.compare_digest(given, wanted):
            await asyncio.sleep(status_page.WRONG_TOKEN_DELAY_S)
            raise _RefusedError(401, "send Authorization: Bearer TOKEN, with the token of [http]")


class _RefusedError(Exception):
    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


async def _body(request: web.Request) -> Any:
    if request.content_type != "application/json":
        raise _RefusedError(415, "send the body as Content-Type: application/json")
    try:
        return json.loads(await request.read())
    except web.HTTPRequestEntityTooLarge:
        raise _RefusedError(413, REFUSALS[413]) from None
    except (ValueError, RecursionError):
        raise _RefusedError(400, "the body is not JSON") from None


def _json(content: Any, status: int = 200, content_type: str = "application/json") -> web.Response:
    return web.Response(text=json.dumps(content), status=status, content_type=content_type, headers=_HEADERS)


def _refusal(error: Exception, *, changes: bool) -> web.Response:
    """Return the response for an error. `changes`: the request may have changed something before it."""
    detail = str(error)
    if isinstance(error, _RefusedError):
        status = error.status
    elif isinstance(error, ValidationError):
        status = 400
        detail = "; ".join(map(_error_text, error.errors(include_url=False, include_input=False)))
    elif isinstance(error, UnknownTarget):
        status = 404
    elif isinstance(error, (ReconcileInProgress, RoutePaused)):
        status = 409
    elif isinstance(error, S3S3Error):
        status = 503
        detail += "; whether anything was changed is unknown" if changes else ""
    else:
        status = 400
    content = dataclasses.asdict(models.Problem(REFUSALS[status], status, detail))
    response = _json(content, status, "application/problem+json")
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _error_text(error: Mapping[str, Any]) -> str:
    place = ".".join(map(str, error["loc"]))
    return f"{place}: {error['msg']}" if place else str(error["msg"])


@cache
def openapi() -> dict[str, Any]:
    """Return the OpenAPI 3.1 description of the API."""
    types = {each.request: "validation" for each in ENDPOINTS} | {each.response: "serialization" for each in ENDPOINTS}
    types[models.Problem] = "serialization"
    inputs: list[Any] = [(kind, mode, TypeAdapter(kind)) for kind, mode in types.items()]
    found, rest = TypeAdapter.json_schemas(inputs, ref_template="#/components/schemas/{model}")
    schemas = {key[0]: schema for key, schema in found.items()}
    definitions = rest.get("$defs", {})
    paths: dict[str, Any] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(PREFIX + endpoint.path, {})[endpoint.method.lower()] = _operation(
            endpoint, schemas, definitions
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "s3s3", "version": __version__,
            "description": "What s3s3 does, and what an operator can change. Times are Unix times in ms.",
        },
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "The token of [http]."}},
        },
    }  # fmt: skip


def _operation(endpoint: Endpoint, schemas: Mapping[Any, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    description = inspect.getdoc(getattr(Service, endpoint.name)) or ""
    statuses = [400, 404, 503]
    if endpoint.needs_token:
        statuses += [401, 403]
    if endpoint.method == "POST":
        statuses += [413, 415]
    if endpoint.name == "reconcile":
        statuses.append(409)
    problem = {"application/problem+json": {"schema": schemas[models.Problem]}}
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": description.splitlines()[0].rstrip("."),
        "responses": {
            "200": {"description": "done", "content": {"application/json": {"schema": schemas[endpoint.response]}}},
            **{str(status): {"description": REFUSALS[status], "content": problem} for status in sorted(statuses)},
        },
    }
    if endpoint.needs_token:
        operation["security"] = [{"token": []}]
    if endpoint.method == "POST":
        body = {"application/json": {"schema": schemas[endpoint.request]}}
        operation["requestBody"] = {"required": True, "content": body}
    else:
        schema = schemas[endpoint.request]
        schema = definitions[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        operation["parameters"] = [
            {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": each}
            for name, each in schema.get("properties", {}).items()
        ]
    return operation


def api_for(
    settings: Config, client: Redis | None, page: StatusPage | None, reconcile: Mapping[str, Reconcile]
) -> Api | None:
    """Return the API beside a status page, or None without one.

    Args:
        reconcile: starts a reconcile in this process, by route.
    """
    if settings.http is None or client is None or page is None:
        return None
    service = Service(page.fleet, page.actions, settings.worker, client, reconcile)
    return Api(service, settings.http.token)
