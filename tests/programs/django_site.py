"""A Django site of one file, behind gunicorn with one worker; `django_site.py` is its manage.py.

SETUP=per-request    connections as they are by default (CONN_MAX_AGE 0)
SETUP=lasting        CONN_MAX_AGE None
SETUP=checked        CONN_MAX_AGE None and CONN_HEALTH_CHECKS
"""

from __future__ import annotations

import os
import sys

import django
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of a test",
    INSTALLED_APPS=["django_entries"],
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ["DATABASE"],
            "CONN_MAX_AGE": 0 if os.environ["SETUP"] == "per-request" else None,
            "CONN_HEALTH_CHECKS": os.environ["SETUP"] == "checked",
            "OPTIONS": {"transaction_mode": "IMMEDIATE"},
            # by default tests run in memory
            "TEST": {"NAME": os.environ.get("TEST_DATABASE")},
        }
    },
)
django.setup()

from django.core.handlers.wsgi import WSGIHandler  # noqa: E402 - after the settings
from django.core.management import execute_from_command_line  # noqa: E402
from django.db import transaction  # noqa: E402
from django.http import HttpRequest, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402
from django_entries.models import Entry  # noqa: E402


def write(request: HttpRequest, mark: str) -> JsonResponse:
    with transaction.atomic():
        Entry.objects.create(mark=mark)
    return JsonResponse({"ok": None})


def read(request: HttpRequest) -> JsonResponse:
    newest = Entry.objects.order_by("-id").first()
    return JsonResponse({"ok": [Entry.objects.count(), newest and newest.mark]})


urlpatterns = [path("write/<mark>", write), path("read", read)]
application = WSGIHandler()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
