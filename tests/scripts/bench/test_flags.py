from importlib import import_module

import pytest

from wnrl.errors import UsageError


@pytest.mark.parametrize(
    ("program", "flag", "wrong", "message"),
    [
        ("agents", "algos", ("ppoo",), r"algos\[0\] must be one of .*did you mean 'ppo'"),
        ("agents", "norms", ("wieght",), r"norms\[0\] must be one of .*did you mean 'weight'"),
        ("agents", "norms", (), "norms must be one or more different values, got"),
        ("diagnostics", "norm", "wieght", "norm must be one of"),
        ("draw_weight_norm", "seeds", 0, "seeds must be above zero, got 0"),
        ("environments", "env_ids", (), "env_ids must be one or more different values"),
        ("environments", "steps", 0, "steps must be above zero"),
        ("executors", "executors", (), "executors must be one or more different"),
        ("intervals", "pairs", (8, 1), r"pairs\[1\] must be a whole number, 2 or more, got 1"),
        ("intervals", "studies", 0, "studies must be above zero, got 0"),
        ("layers", "seconds", 0.0, "seconds must be above zero"),
        ("population", "ways", ("fast",), r"ways\[0\] must be one of"),
        ("population", "algo", "sac", "algo must be one of ppo, recurrent_ppo"),
        ("population", "members", (8, 8), "members must be one or more different values"),
        ("population_parity", "norms", (), "norms must be one or more different values"),
        ("vae", "model", "draw", "model must be one of mlp, conv, got 'draw'"),
        ("vae", "images", 1, "images must be a whole number, 2 or more, got 1"),
        ("vae", "rounds", 0, "rounds must be above zero, got 0"),
    ],
)
def test_flags_that_make_no_sense_are_refused(program, flag, wrong, message):
    with pytest.raises(UsageError, match=message):
        import_module(f"scripts.bench.{program}").Args(**{flag: wrong})
