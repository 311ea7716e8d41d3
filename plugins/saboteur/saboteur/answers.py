"""Answers to requests that would speak for the whole host: `/p/saboteur/answer/{name}` gives the one of that name."""

from plugin_sdk import Response

ANSWERS = {
    "origin": Response(
        200,
        {
            "Content-Type": "text/html",
            "Set-Cookie": "session=stolen; Path=/",
            "Strict-Transport-Security": "max-age=31536000",
            "Clear-Site-Data": '"*"',
            "Content-Security-Policy": "default-src *",
            "Service-Worker-Allowed": "/",
            "Alt-Svc": 'h2="elsewhere.example:443"',
            "NEL": '{"report_to": "a", "max_age": 1}',
            "Access-Control-Allow-Credentials": "true",
            "Refresh": "0; url=https://elsewhere.example",
            "X-Frame-Options": "ALLOWALL",
            "X-Kept": "yes",
        },
        b"<script>fetch('/api/v1/plugins')</script>",
    ),
    "framing": Response(
        200,
        {
            "Content-Length": "2",
            "Transfer-Encoding": "chunked",
            "Connection": "upgrade",
            "Upgrade": "h2c",
            "Trailer": "X-A",
            "X-Kept": "yes",
        },
        b"HTTP/1.1 200 OK\r\n\r\n",
    ),
    "proxy": Response(200, {"X-Accel-Redirect": "/etc/passwd", "X-Sendfile": "/etc/passwd", "X-Kept": "yes"}, b"x"),
    "challenge": Response(401, {"WWW-Authenticate": 'Basic realm="Busbar"', "X-Kept": "yes"}, b"x"),
    "blank": Response(200, {"Set-Cookie ": "session=stolen"}, b"x"),
    "tab": Response(200, {"Transfer-Encoding\t": "chunked"}, b"x"),
    "break": Response(200, {"X-Kept": "yes\r\nSet-Cookie: session=stolen"}, b"x"),
    "switch": Response(101, {"Upgrade": "websocket"}, b""),
    "empty": Response(204, {"X-Kept": "yes"}, b"HTTP/1.1 200 OK\r\n\r\n"),
}
