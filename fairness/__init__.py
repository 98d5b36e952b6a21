"""Fairgate's law: who is next and who pays. Pure, synchronous, no clock."""

from typing import Final

from fairness import scheduler
from fairness.adapters import AdapterRoom
from fairness.auditor import Auditor, Crossing
from fairness.book import Book
from fairness.cost import CostError, CostFunction, Piecewise, Profiled, Weighted, parse_cost
from fairness.forest import Balances
from fairness.limiter import SlidingWindow
from fairness.objective import Objective
from fairness.oracle import Arrival, fluid_service
from fairness.policies import Policy, parse_policy
from fairness.predict import Ewma, LastK, MaxTokens, NoPrediction, Predictor, Quantile, parse_predictor
from fairness.room import Capacity, Obstacle, Residency, Room, Worker, WorkerRoom
from fairness.scheduler import Scheduler
from fairness.shares import MILLI, paths
from fairness.snapshot import Snapshot, TenantState
from fairness.ticket import Grant, LawError, Refusal, State, Ticket

__all__ = [
    "BUILD",
    "MILLI",
    "AdapterRoom",
    "Arrival",
    "Auditor",
    "Balances",
    "Book",
    "Capacity",
    "CostError",
    "CostFunction",
    "Crossing",
    "Ewma",
    "Grant",
    "LastK",
    "LawError",
    "MaxTokens",
    "NoPrediction",
    "Objective",
    "Obstacle",
    "Piecewise",
    "Policy",
    "Predictor",
    "Profiled",
    "Quantile",
    "Refusal",
    "Residency",
    "Room",
    "Scheduler",
    "SlidingWindow",
    "Snapshot",
    "State",
    "TenantState",
    "Ticket",
    "Weighted",
    "Worker",
    "WorkerRoom",
    "fluid_service",
    "parse_cost",
    "parse_policy",
    "parse_predictor",
    "paths",
]

BUILD: Final = "pure" if scheduler.__file__.endswith(".py") else "compiled"
"""Which build runs, of the law and all else that is compiled: the same source as native code, or as plain Python."""
