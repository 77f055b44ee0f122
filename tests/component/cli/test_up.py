"""The gateway of `embedmill up`: what happens if another program takes its port between the look and the start."""

from argparse import Namespace
from contextlib import ExitStack, nullcontext
from types import SimpleNamespace

import pytest

from embedmill_worker import exit_codes
from embedmill_worker.cli.commands import up

DEFAULT_PORTS = Namespace(port=None, grpc_port=None)


@pytest.fixture
def begin(monkeypatch):
    """Starts a gateway whose processes have ended with these codes; gives it and how many were started."""

    def make(codes, args=DEFAULT_PORTS):
        started = []

        def new_gateway(_args, _environment):
            started.append(SimpleNamespace(exit_code=codes[len(started)]))
            return nullcontext(started[-1])

        monkeypatch.setattr(up, "new_gateway", new_gateway)
        return up.Gateway(args, {}, ExitStack()), started

    return make


def test_one_that_lost_its_port_is_started_once_more(begin):
    gateway, started = begin([exit_codes.SETTINGS, None])
    assert (gateway.exit_code(), gateway.exit_code(), len(started)) == (None, None, 2)


def test_one_that_cannot_start_at_all_ends(begin):
    gateway, started = begin([exit_codes.SETTINGS, exit_codes.SETTINGS])
    assert (gateway.exit_code(), gateway.exit_code(), len(started)) == (None, exit_codes.SETTINGS, 2)


def test_ports_that_were_asked_for_are_not_given_up(begin):
    gateway, started = begin([exit_codes.SETTINGS], Namespace(port="8080", grpc_port="6010"))
    assert (gateway.exit_code(), len(started)) == (exit_codes.SETTINGS, 1)


def test_other_ends_are_ends(begin):
    gateway, started = begin([exit_codes.FAILURE])
    assert (gateway.exit_code(), len(started)) == (exit_codes.FAILURE, 1)
