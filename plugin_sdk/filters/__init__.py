"""The filter language: which events a subscription gets, said in JSON and decided without I/O.

A list of filters holds where all of them do; an empty list always. Each filter is an object with exactly one key, its
dialect:

| dialect | holds where |
|---|---|
| `exact`, `prefix`, `suffix` | every attribute named is, starts with or ends with the text beside it |
| `all`, `any` | all, or at least one, of the filters in the array hold |
| `not` | the one filter under it does not |
| `pattern` | the event, its JSON `data` included, fits an event pattern of Amazon EventBridge |

    [
        {"prefix": {"type": "order."}},
        {"not": {"exact": {"source": "/shop/test"}}},
        {"pattern": {"data": {"total": [{"numeric": [">=", 100]}], "country": ["DE", "AT"]}}},
    ]

Sources: CloudEvents Subscriptions API 1.0 (draft), section 3.2.4 "Filters", and the Amazon EventBridge User Guide,
"Event patterns". What they leave open is decided at the head of `dialects`, `pattern`, `operators` and `matching`.

Filters are compiled once and then asked for every event. What they may contain is bounded, so that the work for one
event grows with its size and no faster; nothing in them backtracks.
"""

from plugin_sdk.filters.compiled import CompiledFilters, compile_filters
from plugin_sdk.filters.errors import FilterError
from plugin_sdk.filters.explanations import FailedClause

__all__ = ["CompiledFilters", "FailedClause", "FilterError", "compile_filters"]
