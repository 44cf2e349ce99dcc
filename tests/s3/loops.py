"""A module that imports this fixture runs its tests on both event loops."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

POLICIES = {"uvloop": uvloop.EventLoopPolicy, "asyncio": asyncio.DefaultEventLoopPolicy}


@pytest.fixture(scope="module", params=POLICIES)
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    """Run with both loops: their transports differ when closed, aborted or full."""
    policy: asyncio.AbstractEventLoopPolicy = POLICIES[request.param]()
    return policy
