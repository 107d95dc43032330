"""What theory says, simulated: risks, dominance, attacks, bounds on distances, Lipschitz constants."""
