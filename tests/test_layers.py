"""Who may import whom, and that importing does nothing: the map of the code, held against the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = """
    the ground: imports nothing of ours
        errors          -
        model           -
        addresses       -
        tasks           -
        digest          -
        fanout          -
        blocking        -

    the configuration
        schema          model
        config_file     errors schema
        config_values   addresses model schema
        config_keys     addresses config_file config_values schema
        config_tables   config_file config_keys config_values schema
        config_routes   addresses config_file config_tables model schema
        config_mirror   config_file config_routes config_tables model schema
        config          addresses config_file config_mirror config_routes config_tables config_values errors model \
                        schema

    figures, and rules that do no I/O
        metrics         model
        lease           errors
        matching        model
        report          model
        reconcile       errors model

    stores: everything that speaks S3, and one key copied between them
        store           errors model
        spool           digest errors
        target          errors model reconcile store
        transfer        digest errors fanout metrics model reconcile spool store target
        stores          config errors matching metrics model spool store transfer

    the queue, what fills it, and who works on it
        broker          addresses errors tasks
        jobs            broker lease model tasks
        notices         broker errors jobs lease matching model tasks
        verdicts        errors jobs model report
        circuits        broker jobs model verdicts
        worker          broker circuits errors jobs lease model tasks verdicts
        run_lock        broker errors jobs lease tasks

    whole buckets, and the daemon
        deletions       errors model
        comparison      deletions errors jobs model reconcile report store
        bucket          broker comparison config deletions jobs lease matching model reconcile report store stores \
                        tasks worker
        heal            errors jobs model notices report store
        observer        jobs metrics model
        listener        broker bucket comparison config errors heal jobs lease matching metrics model notices \
                        observer report run_lock stores tasks worker

    what users see
        api             blocking bucket comparison config errors jobs metrics model report store stores
        client          api blocking bucket comparison config errors listener metrics model run_lock stores
        web             config errors metrics
        mirror          broker config config_mirror errors jobs lease metrics model observer spool store stores tasks \
                        transfer web worker
        scripts.progress model report
        demo            broker config errors model notices scripts.progress
