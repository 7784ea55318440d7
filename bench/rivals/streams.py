"""One stream from the source to each receiver: plain HTTP, and rsync's daemon."""

from __future__ import annotations

from bench.rivals.course import Course, first_line

_NGINX = """\
worker_processes 2;
error_log {home}/error.log;
pid {home}/nginx.pid;
daemon off;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    server {{ listen 80; root {data}; }}
}}
user root;
"""

_RSYNC = """\
use chroot = no
[data]
path = {data}
read only = yes
uid = root
"""


class PlainHttp:
    """nginx with sendfile; each receiver asks for all files over one connection."""

    name = "plain HTTP (nginx, curl)"

    def version(self) -> str:
        """Return the versions of both programs."""
        return f"{first_line('nginx', '-v')}; {first_line('curl', '--version').partition(' (')[0]}"

    def prepare(self, course: Course) -> None:
        """Start the server."""
        home = course.home(0)
        (home / "nginx.conf").write_text(_NGINX.format(home=home, data=course.data))
        course.start(0, "nginx", "-e", home / "error.log", "-c", home / "nginx.conf")
        course.wait_for_port(0, 80)

    def race(self, course: Course) -> None:
        """Fetch with everybody at once."""
        urls = f"http://{course.address(0)}/{{{','.join(course.names)}}}"
        course.wait_for_ends(
            [
                course.start(number, "curl", "-sSf", urls, "-o", course.home(number) / "#1")
                for number in course.everybody()
            ]
        )


class Rsync:
    """rsync's daemon, whole files, no compression."""

    name = "rsync daemon"

    def version(self) -> str:
        """Return rsync's version."""
        return first_line("rsync", "--version")

    def prepare(self, course: Course) -> None:
        """Start the daemon."""
        config = course.home(0) / "rsyncd.conf"
        config.write_text(_RSYNC.format(data=course.data))
        course.start(0, "rsync", "--daemon", "--no-detach", "--config", config, "--port", "873")
        course.wait_for_port(0, 873)

    def race(self, course: Course) -> None:
        """Fetch with everybody at once."""
        course.wait_for_ends(
            [
                course.start(
                    number,
                    "rsync",
                    "--recursive",
                    "--whole-file",
                    f"rsync://{course.address(0)}/data/",
                    course.home(number) / "data",
                )
                for number in course.everybody()
            ]
        )
