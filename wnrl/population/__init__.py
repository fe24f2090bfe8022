"""Many runs as one batch: members of one cohort differ in seed, learning rate and the like."""
