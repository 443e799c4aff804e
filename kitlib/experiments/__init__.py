"""Experiments read and checked, runs, results, verdicts; batches, sweeps, publishing and reports.

    from kitlib.experiments import results, runs
    run = runs.open_run("digits_fgsm", "demo", seed=0)
    print(results.accuracy_table(results.of_run(run)))

Read first: settings.py (what a YAML file may say), then runs.py (the folder of a run), results.py (its record) and
verdicts.py (does it agree with the paper?). batch.py hands runs to Snakemake, notebook_code.py says which code a
notebook depends on, sweeps.py aggregates over seeds, publication.py fills figures/, documents.py fills in README.md and
RESULTS.md, commands.py is what the command does.
"""
