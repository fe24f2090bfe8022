"""The hyperparameters of members."""

from dataclasses import fields
from inspect import Parameter, signature

import pytest

from wnrl.networks import ACTIVATIONS
from wnrl.population import COHORTS
from wnrl.rl.models import MODELS, plain_policy


@pytest.mark.parametrize("algo", COHORTS)
def test_defaults_are_those_of_sb3(algo):
    config = COHORTS[algo].member({})
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    values["activation_fn"] = ACTIVATIONS[config.activation_fn]
    algorithm = MODELS[algo]
    theirs = {
        name: parameter.default
        for function in (algorithm, plain_policy(algorithm))
        for name, parameter in signature(function).parameters.items()
        if parameter.default not in (Parameter.empty, None)
    }
    shared = values.keys() & theirs.keys()
    assert len(shared) >= 12
    assert {name: values[name] for name in shared} == {name: theirs[name] for name in shared}
