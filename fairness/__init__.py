"""Fairgate's law: who is next and who pays. Pure, synchronous, no clock."""

from fairness.cost import CostError, CostFunction, Piecewise, Profiled, Weighted, parse_cost
from fairness.limiter import SlidingWindow
from fairness.policies import Policy, parse_policy
from fairness.predict import Ewma, MaxTokens, NoPrediction, Predictor
from fairness.room import Capacity, Room, Worker, WorkerRoom
from fairness.scheduler import Scheduler, Snapshot, TenantState
from fairness.shares import MILLI
from fairness.ticket import Grant, LawError, Refusal, State, Ticket

__all__ = [
    "MILLI",
    "Capacity",
    "CostError",
    "CostFunction",
    "Ewma",
    "Grant",
    "LawError",
    "MaxTokens",
    "NoPrediction",
    "Piecewise",
    "Policy",
    "Predictor",
    "Profiled",
    "Refusal",
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
    "parse_cost",
    "parse_policy",
]
