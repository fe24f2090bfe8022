"""Run folders of VAEs."""

from dataclasses import asdict

from wnrl.runs import Options, Run, write_json
from wnrl.vae.construction import MODEL, save_weights
from wnrl.vae.run import Machine, train_in


def write_run(folder, config, weights=None, reported="raw"):
    """Write a finished run; ``weights`` are state dicts by kind, or one of the raw weights."""
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", asdict(config))
    if weights is not None:
        kinds = weights if reported in weights else {"raw": weights}
        save_weights(reported, kinds, folder)
    finish(folder)
    return folder


def finish(folder, status="finished"):
    Run(folder, {}).write_result({"status": status}, (MODEL,))


def train(args, progress=lambda done: None):
    """Do what ``train_vae.py`` does with these flags, without its bar and lines."""
    machine = Machine(args.device, args.threads, args.compile)
    options = Options(args.resume, args.checkpoint_minutes, args.keep_checkpoint)
    return train_in(args.folder, args.config, machine, args.data_dir, options, progress)
