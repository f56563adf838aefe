# Fourth act: How right the explanations are where the truth is known.
