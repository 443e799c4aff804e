"""Is this robustness real? Nineteen checks and a worst case, on the papers' models and on anybody's.

    target = audit.prepare(model, images)              # pixels in, logits out; nothing guessed
    subject = audit.Subject(target, images, labels, class_names, eps=8 / 255, claim=0.82)
    found = audit.run(audit.Measurements(subject, audit.QUICK), model="mine", data="my images")
    print(found.verdict.sentence, found.flagged())

A file of a model and a folder of pictures: `audit.subject_of(audit.Request(file=..., data=..., eps="8/255"))`.

Read first: checks/ (the nineteen, each a small function) and verdict.py. What they look at: subject.py (threat model,
effort), judged.py (one attack), ensemble.py (the attacks within eps), gradients.py, measure.py (controls), proof.py.
budget.py: how long it takes; resume.py: after a kill. record.py, report.py: audit.json and the page. request.py,
judged_data.py, loading.py: the command's model and pictures.
"""
from kitlib.base.setup import check_backend

check_backend()     # before Keras is imported

from kitlib.audit.budget import Plan, plan
from kitlib.audit.checks import CHECKS, Check, Finding
from kitlib.audit.judged import Attacked
from kitlib.audit.measure import Measurements
from kitlib.audit.record import (
    FILES,
    PICTURES,
    Audit,
    AuditRecord,
    attack_table,
    check_table,
    class_table,
    is_of_its_model,
    read,
    run,
)
from kitlib.audit.request import Request, subject_of
from kitlib.audit.resume import Resume
from kitlib.audit.subject import FULL, QUICK, Effort, Subject
from kitlib.audit.verdict import Verdict, judge
from kitlib.models.loading import load, load_weights
from kitlib.models.reading import Target, prepare

__all__ = ["CHECKS", "FILES", "FULL", "PICTURES", "QUICK", "Attacked", "Audit", "AuditRecord", "Check", "Effort",
           "Finding", "Measurements", "Plan", "Request", "Resume", "Subject", "Target", "Verdict", "attack_table",
           "check_table", "class_table", "is_of_its_model", "judge", "load", "load_weights", "plan", "prepare", "read",
           "run", "subject_of"]
