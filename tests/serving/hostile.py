"""Twenty strings that would act where they are taken for HTML, script, a template, a path or a terminal's signs."""

HOSTILE = (
    "<img src=x onerror=window.acted=1>",
    '"><script>window.acted=2<',
    "javascript:window.acted=3",
    "' onmouseover='window.acted=4",
    '" autofocus onfocus="window.acted=5',
    "{{ 7 * 7 }}{% include 'page.html' %}",
    "${window.acted=6}",
    "`${window.acted=7}`",
    "<iframe srcdoc=<script>window.acted=8>",
    "<svg onload=window.acted=9>",
    "<style>body{display:none}",
    "<base href=http:evil.example>",
    "<meta http-equiv=refresh content=0>",
    "&lt;b&gt;&amp;&#60;i&#62;",
    "\x1b[31mred\nline\r\nSet-Cookie: a=b",
    "..%2f..%2fetc%2fpasswd",
    "a?b#c&q=d;e",
    "\u202egpj.exe\u2066",
    "\ufeff\u0000x".replace("\u0000", "\u200b"),
    "'); DROP TABLE pictures; --",
)
assert len(HOSTILE) == 20
