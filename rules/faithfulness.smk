# Fourth act: How faithful the explanations are to the model.
