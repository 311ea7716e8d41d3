"""The OpenAPI 3.1 document, made from the table of endpoints, and a page that shows it."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from host.api.endpoint import ANY, ANY_METHODS, Endpoint

REF: Final = "#/components/schemas/{model}"
_ENVELOPE: Final = {
    "success": {"type": "boolean"},
    "message": {"type": "string"},
    "timestamp": {"type": "string", "format": "date-time"},
    "traceId": {"type": "string"},
}
_PAGINATION: Final = {
    "type": "object",
    "properties": {name: {"type": "integer"} for name in ("page", "limit", "total", "totalPages")},
}


def document(endpoints: Sequence[Endpoint], version: str) -> dict[str, Any]:
    """The whole document."""
    models = {
        model
        for endpoint in endpoints
        for model in (endpoint.query, endpoint.request, endpoint.response)
        if isinstance(model, type) and issubclass(model, BaseModel)
    }
    ordered = sorted(models, key=lambda model: (model.__module__, model.__name__))
    references, definitions = models_json_schema([(model, "validation") for model in ordered], ref_template=REF)
    schemas = {model: references[model, "validation"] for model in ordered}
    components = dict(definitions.get("$defs", {}))
    components["Failure"] = {
        "type": "object",
        "required": ["success", "code", "message", "timestamp", "traceId"],
        "properties": {
            **_ENVELOPE,
            "code": {"type": "string"},
            "errors": {"type": "array", "items": {"type": "string"}},
        },
    }
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        path = re.sub(r"\{(\w+):[^}]*\}", r"{\1}", endpoint.path)
        for method in ANY_METHODS if endpoint.method == ANY else (endpoint.method,):
            paths.setdefault(path, {})[method.lower()] = _operation(endpoint, path, method.lower(), schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Busbar",
            "version": version,
            "description": "A plugin host: events, plugins, schedules.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def page(endpoints: Sequence[Endpoint], version: str) -> str:
    """A page of the table, for people; it loads nothing from anywhere."""
    rows = "".join(
        f"<tr><td><code>{html.escape(one.method)}</code></td><td><code>{html.escape(one.path)}</code></td>"
        f"<td>{html.escape(one.role.value if one.role else 'anyone')}</td><td>{html.escape(one.summary)}</td></tr>"
        for one in endpoints
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        "<title>Busbar API</title><style>body{font:16px/1.5 system-ui;margin:2rem auto;max-width:70rem;padding:0 1rem}"
        "table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ccc;padding:.4rem;text-align:left;"
        "vertical-align:top}</style>"
        f"<h1>Busbar API {html.escape(version)}</h1><p>The whole of it, for programs: "
        "<a href='/api/openapi.json'>/api/openapi.json</a> (OpenAPI 3.1).</p>"
        f"<table><tr><th>Method<th>Path<th>Needs<th>Does</tr>{rows}</table></html>"
    )


def _operation(
    endpoint: Endpoint, path: str, method: str, schemas: dict[type[BaseModel], dict[str, Any]]
) -> dict[str, Any]:
    suffix = f"_{method}" if endpoint.method == ANY else ""
    operation: dict[str, Any] = {
        "operationId": endpoint.operation + suffix,
        "summary": endpoint.summary,
        "responses": _responses(endpoint, schemas),
    }
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]
    if endpoint.query is not None:
        properties = endpoint.query.model_json_schema(ref_template=REF)["properties"]
        parameters += [
            {"name": name, "in": "query", "required": False, "schema": schema} for name, schema in properties.items()
        ]
    if parameters:
        operation["parameters"] = parameters
    body = _request_body(endpoint, schemas)
    if body is not None:
        operation["requestBody"] = body
    operation["security"] = [] if endpoint.role is None else [{"token": []}]
    return operation


def _request_body(endpoint: Endpoint, schemas: dict[type[BaseModel], dict[str, Any]]) -> dict[str, Any] | None:
    content: dict[str, Any] = {}
    if endpoint.form:
        properties = {name: {"type": "string", "format": "binary"} for name in endpoint.form}
        form = {"type": "object", "properties": properties, "required": list(endpoint.form)}
        content["multipart/form-data"] = {"schema": form}
    if endpoint.consumes:
        content[endpoint.consumes] = {"schema": {"type": "object"}}
    elif endpoint.request is not None:
        model = endpoint.request
        schema = schemas[model] if issubclass(model, BaseModel) else {"type": "object"}
        content["application/json"] = {"schema": schema}
    return {"required": True, "content": content} if content else None


def _responses(endpoint: Endpoint, schemas: dict[type[BaseModel], dict[str, Any]]) -> dict[str, Any]:
    if endpoint.produces:
        content: dict[str, Any] = {endpoint.produces: {"schema": {}}}
    else:
        data: dict[str, Any] = {} if endpoint.response is None else schemas[endpoint.response]
        properties: dict[str, Any] = {
            **_ENVELOPE,
            "data": {"type": "array", "items": data} if endpoint.many else data,
        }
        if endpoint.query is not None and "page" in endpoint.query.model_fields:
            properties["pagination"] = _PAGINATION
        content = {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["success", "timestamp", "traceId"],
                    "properties": properties,
                }
            }
        }
    failed = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Failure"}}}}
    return {
        **{
            str(status): {"description": endpoint.summary, "content": content}
            for status in (endpoint.status, *endpoint.also)
        },
        "default": {"description": "What is wrong, and how to mend it.", **failed},
    }
