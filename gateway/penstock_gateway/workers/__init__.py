"""Several processes of one gateway on one port: who starts them, what each may take, what they ask each other."""
