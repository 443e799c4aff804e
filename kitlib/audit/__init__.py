"""Is this robustness real? Nineteen checks and a worst case, on the papers' models and on anybody's.

    target = audit.prepare(model, images)              # pixels in, logits out; nothing guessed
    subject = audit.Subject(target, images, labels, class_names, eps=8 / 255, claim=0.82)
    found = audit.run(audit.Measurements(subject, audit.QUICK), model="mine", data="my images")
    print(found.verdict.sentence, found.flagged())

A file of a model and a folder of pictures: `audit.subject_of(audit.Request(file=..., data=..., eps="8/255"))`.
"""
from kitlib.base.setup import check_backend

check_backend()     # before Keras is imported

from kitlib.audit.checks import CHECKS, Check, Finding
from kitlib.audit.measure import FULL, QUICK, Attacked, Effort, Measurements, Subject
from kitlib.audit.record import (
    LEAVES,
    PICTURES,
    Audit,
    AuditRecord,
    attack_table,
    check_table,
    is_of_its_model,
    read,
    run,
)
from kitlib.audit.request import Request, subject_of
from kitlib.audit.verdict import Verdict, judge
from kitlib.models.loading import load, load_weights
from kitlib.models.reading import Target, prepare

__all__ = ["CHECKS", "FULL", "LEAVES", "PICTURES", "QUICK", "Attacked", "Audit", "AuditRecord", "Check", "Effort",
           "Finding", "Measurements", "Request", "Subject", "Target", "Verdict", "attack_table", "check_table",
           "is_of_its_model", "judge", "load", "load_weights", "prepare", "read", "run",
           "subject_of"]
