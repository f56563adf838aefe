# Fourth act: Whether explanations follow the weights and the class.
