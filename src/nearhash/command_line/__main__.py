from nearhash.command_line import main

main()
